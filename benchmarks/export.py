"""Turn a trained SAE into a folder of sae-lens, or one of theirs into a checkpoint of ours.

python -m benchmarks.export results/local/checkpoints/ID FOLDER   for sae_lens.SAE.load_from_disk
python -m benchmarks.export --from-saelens FOLDER CHECKPOINT      for gradsae.sae.model.load
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.launch.command import command


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", type=Path, help="folder of the SAE")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--from-saelens", action="store_true", help="source is theirs, target ours")
    return parser.parse_args(argv)


def export(args: argparse.Namespace) -> None:
    from gradsae.sae import model as sae  # torch: not before it is needed
    from gradsae.sae.formats import saelens

    if args.from_saelens:
        saelens.from_saelens(args.source).save(args.target, {"from": "sae-lens"})
    else:
        trainer = sae.read_meta(args.source)["extra"].get("trainer", {})
        saelens.to_saelens(sae.load(args.source), args.target, {"gradsae_trainer": trainer})
    print(f"{args.source} -> {args.target}")


def main() -> None:
    export(parse())


if __name__ == "__main__":
    sys.exit(command(main))
