"""`python -m benchmarks.speed`: ratios to other libraries and to the hardware, in one table."""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.speed import growth
from benchmarks.speed.case import Case
from benchmarks.speed.table import HEAD, cells, lines, machine
from benchmarks.speed.timing import Row, compare
from benchmarks.speed.topics import all_cases

LEGEND = """
ratio   median over pairs of other / ours (higher is better); against the floor ours / floor
range   least and most of the pairs
memory  peak resident GiB, ours / other; every contender runs in a process of its own
Peers are installed by `make peers`."""


def main(arguments: list[str]) -> int:
    asked = _parser().parse_args(arguments)
    chosen = _chosen(all_cases(), asked)
    if not chosen and not asked.growth:
        names = ", ".join(sorted({case.name for case in all_cases()}))
        print(f"error: no case has that name and shape; names are {names}", file=sys.stderr)
        return 2
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    rows = [row for case in chosen for row in _measure(case, asked)]
    print("\n" + "\n".join(lines([cells(row) for row in rows], HEAD)))
    print(LEGEND)
    grown = growth.measure() if asked.growth or not (asked.only or asked.shape) else []
    if grown:
        print("\nHow cost grows (ours, one thing changed at a time):")
        print("\n".join(lines([g.cells() for g in grown], growth.HEAD)))
    if asked.json:
        found = {"machine": about, "rows": [row.as_json() for row in rows]}
        found["growth"] = [vars(g) for g in grown]
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


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


def _chosen(cases: list[Case], asked: argparse.Namespace) -> list[Case]:
    return [
        case
        for case in cases
        if ((not asked.only and not asked.growth) or case.name in (asked.only or ()))
        and (asked.shape is None or asked.shape in case.shape)
    ]


def _measure(case: Case, asked: argparse.Namespace) -> list[Row]:
    rows = []
    for name in case.others:
        if asked.against and name not in asked.against:
            continue
        print(f"{case.name} ({case.shape}) against {name} ...", file=sys.stderr, flush=True)
        rows.append(compare(case, name, asked.pairs or case.pairs))
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
