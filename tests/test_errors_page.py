"""The page of errors quotes messages as the code has them."""

import ast
import re
from functools import cache
from pathlib import Path

import hydra
import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = (ROOT / "gradsae", ROOT / "benchmarks", Path(hydra.__file__).parent / "_internal")


def quoted() -> list[str]:
    """The messages in the first columns of the page."""
    lines = (ROOT / "docs" / "errors.md").read_text().splitlines()
    return [text for line in lines for text in re.findall(r"^\| `([^`]+)`", line)]


@cache
def messages() -> list[str]:
    """Every text in the code; what is put into it when it runs stands there as three dots."""
    texts: list[str] = []
    for path in (path for folder in FOLDERS for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(_literal(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def _literal(part: ast.expr) -> str:
    if isinstance(part, ast.Constant) and isinstance(part.value, str):
        return part.value
    return "..."


def stands_in_order(pieces: list[str], text: str) -> bool:
    at = 0
    for piece in pieces:
        if (found := text.find(piece, at)) < 0:
            return False
        at = found + len(piece)
    return True


def test_the_page_quotes_many_messages():
    assert len(quoted()) > 50


@pytest.mark.parametrize("message", quoted())
def test_the_fixed_part_of_a_quoted_message_stands_in_the_code(message):
    pieces = [piece for piece in (part.strip() for part in re.split(r"\.{3,}", message)) if piece]
    assert any(stands_in_order(pieces, text) for text in messages())


def test_a_message_that_the_code_does_not_have_is_not_taken_for_one_of_its():
    assert not any(stands_in_order(["is more than", "crumbs"], text) for text in messages())
