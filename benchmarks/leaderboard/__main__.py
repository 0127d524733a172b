"""Rebuild the board from records alone: one HTML page, board.csv, board.md, and the console.

python -m benchmarks.leaderboard [--records local|published|both|DIR] [--out DIR]
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.figures.__main__ import FigureFiles, draw_all
from benchmarks.launch.command import command
from benchmarks.leaderboard import plain
from benchmarks.leaderboard.board import make_tables
from benchmarks.leaderboard.page import render
from benchmarks.results.reading import Entry, add_records_argument, read
from benchmarks.results.settings import make_settings
from benchmarks.results.tolerance import tolerant
from gradsae.errors import UserError
from gradsae.storage.files import check_writable, write_whole


def board(figures: Sequence[FigureFiles], out: Path, entries: Sequence[Entry]) -> dict[str, str]:
    """Return the texts of the board, by the file that holds each, and that of the console."""
    tables = make_tables(make_settings(entries))
    return {
        "board.csv": plain.table_csv(tables),
        "board.md": plain.markdown(tables),
        "index.html": render(tables, figures, out),
        "console": plain.console(tables),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leaderboard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_records_argument(parser)
    parser.add_argument("--out", default="results/site", type=Path, help="default: %(default)s")
    parser.add_argument("--no-figures", action="store_true", help="tables only: a second, not ten")
    args = parser.parse_args()
    entries = read(args.records)
    if not entries:
        raise UserError(f"no records in {args.records}; `python -m benchmarks.run` makes some")
    check_writable(args.out, "--out")
    settings = make_settings(entries)
    figures, problems = ([], []) if args.no_figures else draw_all(settings, args.out / "figures")
    texts = tolerant(partial(board, figures, args.out), entries, str, "the board")
    for name in ("board.csv", "board.md", "index.html"):
        write_whole(args.out / name, texts[name])
    print(texts["console"])
    print(f"\nwritten: {args.out / 'index.html'}, board.csv, board.md")
    if problems:
        raise UserError("\n".join(problems))


if __name__ == "__main__":
    sys.exit(command(main))
