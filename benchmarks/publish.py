"""Copy local records to results/records/, where git, the board and collaborators see them.

python -m benchmarks.publish ID...              these records
python -m benchmarks.publish --experiment NAME  all of one experiment
python -m benchmarks.publish --all              all
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.launch.command import command
from benchmarks.places import LOCAL, PUBLISHED, ROOT
from benchmarks.results.tolerance import MAX_PROBLEM, leave_out
from gradsae.errors import UserError
from gradsae.records.provenance import reduce_paths
from gradsae.records.record import Record, load, load_folder, save
from gradsae.tables.printing import printable


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", nargs="*", default=[], metavar="ID", help="record ids, or a prefix")
    which.add_argument("--experiment", help="all local records of this experiment")
    which.add_argument("--all", action="store_true", help="all local records")
    parser.add_argument(
        "--allow-dirty",
        action="store_true",
        help="also publish records of changed or unknown code (nobody can repeat those)",
    )
    parser.add_argument("--from", dest="source", default=LOCAL, type=Path, help="local records")
    parser.add_argument("--to", default=PUBLISHED, type=Path, help="published records")
    return parser.parse_args(argv)


def publish(args: argparse.Namespace) -> None:
    chosen = choose(args)
    problems = {record.id: objections(record, args.allow_dirty) for record in chosen}
    refused = {name: why for name, why in problems.items() if why}
    if refused:
        lines = "\n".join(f"  {name}: {why}" for name, why in refused.items())
        raise UserError(f"nothing was published; {len(refused)} of {len(chosen)} refused:\n{lines}")
    counts = {"new": 0, "replaced": 0, "unchanged": 0}
    for record in chosen:
        counts[copy(record, args.to)] += 1
    summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"{len(chosen)} records in {args.to}: {summary}")


def choose(args: argparse.Namespace) -> list[Record]:
    """Return the local records that the words name.

    A damaged one is an error where it was named, and else left out.
    """
    if args.ids:
        return [_find(args.source, name) for name in args.ids]
    records, problems = load_folder(args.source)
    for problem in problems:
        leave_out(problem)
    if args.experiment:
        experiments = {str(record.config.get("experiment")) for record in records}
        records = [r for r in records if r.config.get("experiment") == args.experiment]
        if not records:
            have = ", ".join(sorted(experiments)) or "none"
            raise UserError(f"no local record of experiment {args.experiment}; there is: {have}")
    if not records:
        raise UserError(f"no record in {args.source}; `python -m benchmarks.run` makes some")
    return records


def objections(record: Record, allow_dirty: bool) -> str:
    """Return why a record may not be published, or the empty string."""
    if not allow_dirty and record.provenance["commit"] is None:
        return "the commit is unknown; run from a git checkout, or pass --allow-dirty"
    if not allow_dirty and record.provenance["dirty"] is not False:
        return "the code was changed after its commit; commit and run again, or --allow-dirty"
    for part in ("config", "provenance", "artifacts"):
        for text in _texts(getattr(record, part)):
            if reduce_paths(text, ROOT) != text:
                return f"{part} names an absolute path of a machine: {text[:80]!r}"
    return ""


def copy(record: Record, folder: Path) -> str:
    target = folder / f"{record.id}.json"
    if target.exists() and _is_equal(target, record):
        return "unchanged"
    done = "replaced" if target.exists() else "new"
    save(record, folder)
    print(f"{done} {target}")
    return done


def _is_equal(path: Path, record: Record) -> bool:
    """Return whether a file holds this record; a damaged one does not."""
    try:
        return load(path) == record
    except UserError as error:
        print(f"{printable(str(error), MAX_PROBLEM)}; it is replaced", file=sys.stderr)
        return False


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _find(folder: Path, name: str) -> Record:
    matches = sorted(path for path in folder.glob("*.json") if path.stem.startswith(name))
    if len(matches) != 1:
        raise UserError(f"{len(matches)} local records begin with {name} in {folder}; one must")
    return load(matches[0])


def main() -> None:
    publish(parse())


if __name__ == "__main__":
    sys.exit(command(main))
