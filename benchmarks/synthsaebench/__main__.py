"""Score trained SAEs of SynthSAEBench by our metrics and by sae-lens itself, side by side.

python -m benchmarks.synthsaebench ID             the SAE of a record of this machine
python -m benchmarks.synthsaebench FOLDER         an SAE in any format that gradsae reads

A record's SAE is scored on the world, the held-out rows and the seed of the record. A folder is
scored on SynthSAEBench-16k v2 unless --world names a preset, or a folder that sae-lens saved.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.launch.command import command


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthsaebench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("saes", nargs="+", metavar="ID|FOLDER", help="records, or folders of SAEs")
    parser.add_argument("--world", help="preset of conf/source, or a folder saved by sae-lens")
    parser.add_argument("--rows", type=int, help="held-out rows (default: the record's, or 8192)")
    parser.add_argument("--seed", type=int, help="seed of the rows (default: the record's, or 0)")
    parser.add_argument("--results", type=Path, default=Path("results/local"), metavar="DIR")
    args = parser.parse_args(argv)
    if args.rows is not None and args.rows < 1:
        parser.error(f"--rows {args.rows}: it must be 1 or above")
    return args


def show(args: argparse.Namespace) -> None:
    """Print one table per SAE."""
    from benchmarks.synthsaebench.asked import asked_of
    from benchmarks.synthsaebench.lens import INSTALL, is_installed
    from benchmarks.synthsaebench.scored import table

    has_lens = is_installed()
    for name in args.saes:
        asked = asked_of(name, args.results, args.world, args.rows, args.seed)
        print(table(asked, has_lens=has_lens), "\n")
    if not has_lens:
        print(f"sae-lens is not installed, so its own numbers are missing. To have them: {INSTALL}")


def main() -> None:
    show(parse())


if __name__ == "__main__":
    sys.exit(command(main))
