"""Which records a command reads."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.places import LOCAL, PUBLISHED
from benchmarks.results.tolerance import leave_out
from benchmarks.results.vocabulary import RETIRED
from gradsae.errors import UserError
from gradsae.records.record import Record, load_folder

LOCAL_ORIGIN, OWN_ORIGIN = "local", "own"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A record and where it was found."""

    record: Record
    path: Path
    origin: str
    """`local`: this machine; `own`: published by the project; else the collaborator's folder."""

    def __str__(self) -> str:
        """Its name in messages."""
        return f"record {self.record.id} ({self.path.parent})"


def add_records_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--records",
        default="both",
        metavar="local|published|both|DIR",
        help="records to read: of this machine, published, both (a published record hides the "
        "local one of the same id), or a folder (default: %(default)s)",
    )


def read(choice: str) -> list[Entry]:
    """Records of a choice; damaged ones are named on stderr and left out."""
    folders = {"local": [LOCAL], "published": [PUBLISHED], "both": [PUBLISHED, LOCAL]}
    if choice not in folders and not Path(choice).is_dir():
        raise UserError(f"--records {choice}: it must be local, published, both or a folder")
    entries: list[Entry] = []
    for folder in folders.get(choice, [Path(choice)]):
        found = _read_tree(folder)
        hidden = {entry.record.id for entry in entries if entry.origin == OWN_ORIGIN}
        entries += [entry for entry in found if entry.record.id not in hidden]
    return entries


def _read_tree(folder: Path) -> list[Entry]:
    """The folder's own records, then one folder per collaborator."""
    own = OWN_ORIGIN if folder.resolve() == PUBLISHED else LOCAL_ORIGIN
    entries: list[Entry] = []
    for place, origin in [(folder, own), *((path, path.name) for path in _collaborators(folder))]:
        found, problems = load_folder(place)
        for problem in problems:
            leave_out(problem)
        entries += [
            Entry(record=without_retired(record), path=place / f"{record.id}.json", origin=origin)
            for record in found
        ]
    return entries


def _collaborators(folder: Path) -> list[Path]:
    """Return the folders inside; a link is none, nor is one whose name cannot be shown."""
    inner = sorted(path for path in folder.glob("*") if path.is_dir() and path.suffix != ".json")
    for path in inner:
        if path.is_symlink():
            leave_out(f"{path}: it is a symbolic link; it must be a folder of its own")
        elif not path.name.isprintable():
            leave_out(f"{path}: the name of a folder of records must be printable")
    return [path for path in inner if not path.is_symlink() and path.name.isprintable()]


def without_retired(record: Record) -> Record:
    """Return a record without what it says of estimators whose names are retired."""
    if not any(_variant(name) in RETIRED for name in record.scores):
        return record

    def kept(scores: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in scores.items() if _variant(name) not in RETIRED}

    return replace(
        record,
        scores=kept(record.scores),
        intervals=kept(record.intervals),
        n=kept(record.n),
        skipped=kept(record.skipped),
        series={name: _without_retired(table) for name, table in record.series.items()},
    )


def _variant(score: str) -> str:
    """Return the last of the parts `kind/score/variant`."""
    return score.rpartition("/")[2]


def _without_retired(table: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Drop the rows that a column `estimator` gives to a retired name, and its own columns."""
    names = table.get("estimator")
    rows = range(len(next(iter(table.values()), [])))
    kept = [row for row in rows if names is None or names[row] not in RETIRED]
    dropped = {*RETIRED, *(f"rank.{name}" for name in RETIRED)}
    return {key: [column[i] for i in kept] for key, column in table.items() if key not in dropped}
