"""The whole campaign: foreign files of all kinds and all their readers."""

import argparse
import importlib.util
import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).parent.parent)
)  # as pytest does: example records, tiny models

from fuzz import Counts, records

CAMPAIGNS = {"records": records.campaign}
if importlib.util.find_spec("fuzz.files") is not None:
    from fuzz import files  # pyright: ignore

    CAMPAIGNS["files"] = files.campaign


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--tries", default=2_500, type=int, help="of each kind (%(default)s)")
    parser.add_argument("--seed", default=0, type=int, help="of the damage (%(default)s)")
    parser.add_argument("--only", choices=CAMPAIGNS)
    args = parser.parse_args()
    whole = Counts()
    for name, campaign in CAMPAIGNS.items():
        if args.only in (None, name):
            counts = campaign(args.tries, args.seed)
            sys.stdout.write("".join(f"  {note}\n" for note in dict.fromkeys(counts.notes)))
            sys.stdout.write(f"{counts.line(name)}\n")
            whole += counts
    sys.stdout.write(f"{whole.line('fuzz')}\n")
    sys.exit(whole.bad() > 0)


if __name__ == "__main__":
    main()
