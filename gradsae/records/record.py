"""Records: one JSON file says what was measured on what, the scores, and where they come from.

Files are the truth: the board, tables and figures read records and nothing else. A record
holds numbers and text; reading one never runs or builds anything.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, final

from gradsae.errors import UserError
from gradsae.records.ids import content_id as content_id
from gradsae.records.ids import record_id as record_id
from gradsae.records.ids import setting_id
from gradsae.records.provenance import provenance as provenance
from gradsae.records.schema import check, check_file, has_checksum
from gradsae.records.setup import Setup
from gradsae.records.shapes import (
    SCHEMA_VERSION,
    Artifacts,
    Columns,
    Cost,
    Declared,
    Provenance,
    Seeds,
    TaskId,
)
from gradsae.storage.files import check_writable as check_writable
from gradsae.storage.files import read_plain, writing
from gradsae.storage.sealed import CHECKSUM, sealed

MAX_BYTES = 20_000_000
"""Of a record's file."""


def created_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@final
@dataclass(frozen=True, kw_only=True)
class Record:
    """One cell of the benchmark. The fields are the keys of the file; `shapes` has their parts."""

    task: TaskId

    config: dict[str, Any]
    """Resolved. Its bookkeeping keys (`gradsae.records.ids.BOOKKEEPING`) do not shape the id.
    Readers take `setup`."""

    seeds: Seeds

    scores: dict[str, float | int]
    """By `kind/score[/variant]`; always finite. What is absent stands in `skipped`."""

    intervals: dict[str, list[float | int]] = field(default_factory=dict)
    """95 % [low, high] of some scores, over what `n` counts."""

    n: dict[str, int] = field(default_factory=dict)
    """Prompts, tokens or latents behind a score."""

    skipped: dict[str, str] = field(default_factory=dict)
    """Why a score, or a whole kind, is absent."""

    series: dict[str, Columns] = field(default_factory=dict)
    """Small tables that figures need: columns of one length by name."""

    cost: Cost

    provenance: Provenance

    artifacts: Artifacts = field(
        default_factory=lambda: Artifacts(checkpoint=None, activations=None)
    )

    about: Declared = field(default_factory=Declared)
    """No part of the id; empty in records of schema 1."""

    schema_version: int = SCHEMA_VERSION
    created: str = field(default_factory=created_now)
    id: str = ""
    """Hash of task, config and seeds; filled in where it is left empty."""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", record_id(self.task, self.config, self.seeds))
        check(vars(self))

    @cached_property
    def setup(self) -> Setup:
        """The parts of the config that readers ask for, by name."""
        return Setup.model_validate(self.config)

    def rows(self, series: str) -> list[dict[str, Any]]:
        """Return the rows of a series, each by column; none where the record has no such series."""
        columns = self.series.get(series, {})
        return [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]


def save(record: Record, folder: Path | str) -> Path:
    """Write `<folder>/<id>.json` whole or not at all, and return its path."""
    folder = Path(folder)
    whole = text(record)
    with writing(f"record {record.id}", folder / f"{record.id}.json") as fresh:
        fresh.write_text(whole, encoding="utf-8")
    return folder / f"{record.id}.json"


def text(record: Record) -> str:
    """Return what the file of a record holds: JSON with one line per entry of each part, so that
    it reads and diffs well. A record of schema 1 has no `about`; from schema 3 on, a checksum of
    all the rest is its last key."""
    data = {each.name: getattr(record, each.name) for each in fields(record)}
    if record.schema_version == 1:
        del data["about"]
    order = ("schema_version", "id", "created", "task", "config", "seeds")
    keys = [*order, *(key for key in data if key not in order)]
    if has_checksum(data):
        data, keys = sealed({key: data[key] for key in keys}), [*keys, CHECKSUM]
    return "{\n" + ",\n".join(f'  "{key}": {_part(data[key])}' for key in keys) + "\n}\n"


def load(path: Path | str) -> Record:
    """Read one record; UserError names the file, the field, the value and what would be right."""
    path = Path(path)
    try:
        data = json.loads(
            read_plain(path, MAX_BYTES),
            parse_constant=_no_constant,
            object_pairs_hook=_no_duplicates,
        )
        return _from_file(check_file(data))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except RecursionError:
        raise UserError(f"damaged record {path}: its parts are nested too deeply") from None
    except ValueError as error:
        raise UserError(f"damaged record {path}: not valid JSON ({error})") from error
    except UserError as error:
        raise UserError(f"damaged record {path}: {error}") from error


def _from_file(data: dict[str, Any]) -> Record:
    """Return the record of a file's JSON; `Record(...)` would check the same a second time."""
    whole = {"about": {}, **data}
    check(whole)
    record = object.__new__(Record)
    vars(record).update({each.name: whole[each.name] for each in fields(Record)})
    return record


def load_folder(folder: Path | str) -> tuple[list[Record], list[str]]:
    """All records of a folder, and one message for each file that could not be used.

    A missing folder holds no records.
    """
    records: list[Record] = []
    problems: list[str] = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            record = load(path)
            if path.stem != record.id:
                raise UserError(f"damaged record {path}: its name must be {record.id}.json")
            records.append(record)
        except UserError as error:
            problems.append(str(error))
    return records, problems


def rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One flat row per score, ready for `pandas.DataFrame`; `low` and `high` may be None."""
    return [
        {
            "id": record.id,
            "task": record.task["name"],
            "version": record.task["version"],
            "label": record.config.get("label"),
            "experiment": record.config.get("experiment"),
            "source": record.setup.source.name or None,
            "site": record.setup.source.site or None,
            "model": record.setup.model.name or None,
            "trainer": record.setup.trainer.name or None,
            **{f"seed_{name}": seed for name, seed in record.seeds.items()},
            "score": name,
            "value": value,
            "low": record.intervals.get(name, [None, None])[0],
            "high": record.intervals.get(name, [None, None])[1],
            "n": record.n.get(name),
            "seconds": record.cost["seconds"],
            "commit": record.provenance["commit"],
            "created": record.created,
        }
        for record in records
        for name, value in record.scores.items()
    ]


def group_by_seed(records: Iterable[Record]) -> list[list[Record]]:
    """Groups of records that differ in nothing but their seeds, each in order of the seeds.

    The key holds the task's version, so a group never mixes two versions.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(group_key(record), []).append(record)
    order = ("world", "data", "init", "eval")
    return [
        sorted(group, key=lambda record: [record.seeds[name] for name in order])
        for group in groups.values()
    ]


def group_key(record: Record) -> str:
    """Id of what was measured on what, whatever the seeds."""
    return setting_id(record.task, record.config)


def _part(value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value, allow_nan=False)
    lines = (f"    {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in value.items())
    return "{\n" + ",\n".join(lines) + "\n  }"


def _no_constant(name: str) -> Any:
    raise UserError(f"a number is {name}; it must be finite, and what is absent is skipped")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        (twice, _), *_ = counts.most_common(1)
        raise UserError(f"the key {twice[:80]!r} is there twice")
    return data
