"""Tables of docs/ that come from records: each stands between two markers of its name."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.places import ROOT
from benchmarks.results.reading import add_records_argument, read
from benchmarks.results.settings import Setting, make_settings
from benchmarks.results.tolerance import tolerant
from gradsae.errors import UserError
from gradsae.storage.files import write_whole

RESULTS = ROOT / "docs" / "results"


def replaced(text: str, name: str, table: str) -> str:
    """`text` with what stands between the markers of this name replaced."""
    begin, end = markers(name)
    head, found_begin, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_begin or not found_end:
        raise UserError(f"the page must hold {begin} and, after it, {end}")
    return f"{head}{begin}\n{table}\n{end}{tail}"


def markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def plain(value: float, digits: int) -> str:
    """`.812`, `-.05`, `12.3`: no zero before the point."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def write_or_check(
    name: str, about: str | None, pages: Callable[[Sequence[Setting]], Mapping[Path, str]]
) -> None:
    """The command `benchmarks.name`: write each page of the records, or fail if one differs."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_records_argument(parser)
    parser.set_defaults(records="published")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if it differs")
    args = parser.parse_args()
    texts = tolerant(lambda some: pages(make_settings(some)), read(args.records), str, "the table")
    for path, text in texts.items():
        differs = not path.exists() or path.read_text() != text
        if args.check and differs:
            raise UserError(f"{path.name} does not show the records: run benchmarks.{name}")
        if differs:
            write_whole(path, text)
