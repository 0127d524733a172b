"""`python -m benchmarks.speed`: ratios to other libraries and to the hardware, in one table."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.launch.command import command
from benchmarks.speed import growth
from benchmarks.speed.case import Case
from benchmarks.speed.table import HEAD, cells, machine
from benchmarks.speed.timing import Row, compare
from benchmarks.speed.topics import all_cases
from gradsae.errors import UserError
from gradsae.tables.printing import console_table

LEGEND = """
ratio   median over pairs of other / ours (higher is better); against the floor ours / floor
range   least and most of the pairs
memory  peak resident GiB, ours / other; every contender runs in a process of its own
Peers are installed by `make peers`."""


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    chosen = _chosen(all_cases(), args)
    if not chosen and not args.growth:
        names = ", ".join(sorted({case.name for case in all_cases()}))
        raise UserError(f"no case has that name and shape; names are {names}")
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    rows = [row for case in chosen for row in _measure(case, args)]
    print("\n" + console_table(HEAD, [cells(row) for row in rows]))
    for row in rows:
        if row.absent is not None:
            print(f"{row.name} against {row.other} was not run: {row.absent}")
    print(LEGEND)
    grown = growth.measure() if args.growth or not (args.only or args.shape) else []
    if grown:
        print("\nHow cost grows (ours, one thing changed at a time):")
        print(console_table(growth.HEAD, [g.cells() for g in grown]))
    if args.json:
        numbers = {"machine": about, "rows": [row.as_json() for row in rows]}
        numbers["growth"] = [vars(g) for g in grown]
        args.json.write_text(json.dumps(numbers, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="cases of this name")
    parser.add_argument("--shape", metavar="TEXT", help="shapes that contain this text")
    parser.add_argument("--against", action="append", metavar="NAME", help="only these contenders")
    parser.add_argument("--pairs", type=_whole, metavar="N", help="pairs of each comparison")
    parser.add_argument("--growth", action="store_true", help="how cost grows with each size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    return parser


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _chosen(cases: list[Case], args: argparse.Namespace) -> list[Case]:
    return [
        case
        for case in cases
        if ((not args.only and not args.growth) or case.name in (args.only or ()))
        and (args.shape is None or args.shape in case.shape)
    ]


def _measure(case: Case, args: argparse.Namespace) -> list[Row]:
    rows = []
    for name in case.contenders:
        if args.against and name not in args.against:
            continue
        print(f"{case.name} ({case.shape}) against {name} ...", file=sys.stderr, flush=True)
        rows.append(compare(case, name, args.pairs or case.pairs))
    return rows


if __name__ == "__main__":
    sys.exit(command(main))
