"""Rebuild the board from records alone: one HTML page, board.csv, board.md, and the console.

python -m benchmarks.leaderboard [--records local|published|both|DIR] [--out DIR]
"""

import argparse
import sys
from pathlib import Path

from benchmarks.figures.__main__ import draw_all
from benchmarks.launch.command import command
from benchmarks.leaderboard import plain
from benchmarks.leaderboard.board import make_tables
from benchmarks.leaderboard.page import render
from benchmarks.results.reading import add_records_argument, read
from benchmarks.results.settings import make_settings
from gradsae.errors import UserError
from gradsae.storage.files import check_writable, write_whole


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
    settings = make_settings(read(args.records))
    if not settings:
        raise UserError(f"no records in {args.records}; `python -m benchmarks.run` makes some")
    check_writable(args.out)
    tables = make_tables(settings)
    figures, problems = ([], []) if args.no_figures else draw_all(settings, args.out / "figures")
    write_whole(args.out / "board.csv", plain.table_csv(tables))
    write_whole(args.out / "board.md", plain.markdown(tables))
    write_whole(args.out / "index.html", render(tables, figures, args.out))
    print(plain.console(tables))
    print(f"\nwritten: {args.out / 'index.html'}, board.csv, board.md")
    if problems:
        raise UserError("\n".join(problems))


if __name__ == "__main__":
    sys.exit(command(main))
