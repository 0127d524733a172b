"""The one printer of tables: aligned text for a terminal, or Markdown."""

import re
from collections.abc import Sequence
from typing import final

MAX_CELL = 200
"""Characters of a cell in a terminal."""


def printable(text: str, limit: int) -> str:
    """Return one line of limited length: a stranger's record must not steer a terminal or page."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable_lines(text: str, limit: int) -> str:
    """Return the lines of a text, each `printable`."""
    return "\n".join(printable(line, limit) for line in text.split("\n"))


def console_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numeric: Sequence[bool] | None = None,
    max_cell: int = MAX_CELL,
) -> str:
    """Return aligned columns under a rule; columns of numbers are set flush right.

    Args:
        headers: Heads of the columns.
        rows: Cells, row by row, as many as there are heads.
        numeric: Which columns hold numbers; by default those whose every cell begins like one.
        max_cell: Characters that are shown of a cell.
    """
    cells = [[printable(text, max_cell) for text in row] for row in [headers, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if numeric is None:
        numeric = [all(map(_is_numeric, column[1:])) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(parts).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


@final
class Markdown(str):
    """Text that is Markdown already. Any other text is escaped where Markdown is made."""


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table. A cell is plain text and shown as it stands, or `Markdown`."""
    return "\n".join(map(_line, [headers, ["---"] * len(headers), *rows]))


def _line(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {escaped(cell)} " if cell else " " for cell in cells) + "|"


def escaped(text: str) -> Markdown:
    """Return Markdown that shows a text as it stands: one line, no mark-up, no link."""
    if isinstance(text, Markdown):
        return text
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return Markdown(SPECIAL.sub(_harmless, text))


SPECIAL = re.compile(
    r"[\\|`*<>&${~]"  # escapes, cells, code, emphasis, HTML, formulas, attributes, strike-through
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis; between two letters it is none
    r"|\](?=[(:]|\s?\[)|!(?=\[)"  # links and images; an interval is none
    r"|(?<=:)//|(?<=www)\.",  # what becomes a link by itself
    re.IGNORECASE,
)
"""What Markdown reads as more than letters."""


def _harmless(match: re.Match[str]) -> str:
    """Return what shows the matched letters: a backslash where every dialect knows it."""
    letters = match.group()
    if len(letters) == 1 and letters in "\\|`*_]!":
        return f"\\{letters}"
    return "".join(f"&#{ord(letter)};" for letter in letters)


def _is_numeric(text: str) -> bool:
    return text[:1] in set("0123456789+-.") or text == ""
