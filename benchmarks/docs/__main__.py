"""Write the parts of the documentation that are made from code and records.

python -m benchmarks.docs           write whole pages, and tables between their markers
python -m benchmarks.docs --check   fail if one of them is out of date
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.docs.examples import examples, notebook
from benchmarks.docs.numbers import numbers
from benchmarks.docs.scores import scores
from benchmarks.docs.speed import speed
from benchmarks.docs.tables import TABLES
from benchmarks.launch.command import command
from benchmarks.render.markdown import RESULTS, replaced
from benchmarks.results.reading import Entry, read
from benchmarks.results.settings import make_settings
from benchmarks.results.tolerance import tolerant
from gradsae.errors import UserError
from gradsae.storage.files import write_whole

DOCS = RESULTS.parent
ROOT = DOCS.parent


def pages() -> Iterator[tuple[Path, str]]:
    """Yield each page that is made here, with its text as it should be."""
    yield DOCS / "numbers.md", numbers((ROOT / "CHANGELOG.md").read_text())
    yield DOCS / "scores.md", scores()
    yield filled(DOCS / "records.md", {"examples": examples(ROOT / "results" / "records")})
    measured = speed(ROOT / "results" / "speed" / "cpu.json")
    yield filled(DOCS / "speed.md", {"speed": measured})
    example = notebook(DOCS / "snippets" / "notebook.py")
    for path in (ROOT / "README.md", DOCS / "api.md"):
        yield filled(path, {"notebook": example})
    yield from tolerant(_tables, read("published"), str, "the tables").items()


def _tables(entries: Sequence[Entry]) -> dict[Path, str]:
    """Return the pages whose tables come from records, with their texts."""
    settings = make_settings(entries)
    return dict(
        filled(RESULTS / page, {name: make(settings) for name, make in tables.items()})
        for page, tables in TABLES.items()
    )


def filled(path: Path, parts: dict[str, str]) -> tuple[Path, str]:
    """Return the path and its text with each part between the markers of its name."""
    text = path.read_text()
    for name, part in parts.items():
        text = replaced(text, name, part)
    return path, text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.docs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing, fail if it differs")
    check = parser.parse_args().check
    for path, text in pages():
        differs = not path.exists() or path.read_text() != text
        if check and differs:
            raise UserError(f"{path.relative_to(ROOT)} is out of date: run benchmarks.docs")
        if differs:
            write_whole(path, text)


if __name__ == "__main__":
    sys.exit(command(main))
