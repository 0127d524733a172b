"""What a record file may contain: each check names the field, the value and what is right."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from gradsae.about import About, Score
from gradsae.errors import UserError

SCHEMA_VERSION = 2
"""Version 2 added `about`."""
READABLE = (1, 2)
MAX_SERIES_VALUES = 20_000
MAX_TEXT = 4_000  # characters in one cell of a series
MAX_ABOUT = 2_000  # entries of `about`, and characters in one of its texts

SCORE_NAME = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9][A-Za-z0-9_.+-]*){1,2}")
SKIPPED_NAME = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9][A-Za-z0-9_.+-]*){0,2}")
COLUMN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")

TASK_KEYS = {"name", "version"}
SEED_KEYS = {"world", "data", "init", "eval"}
COST_KEYS = {"seconds", "forward_equivalents", "tokens", "peak_bytes"}
ARTIFACT_KEYS = {"checkpoint", "activations"}
PROVENANCE_KEYS = {"commit", "dirty", "versions", "device", "command"}
KEYS = {
    *("schema_version", "id", "created", "task", "config", "seeds", "scores", "intervals", "n"),
    *("skipped", "series", "cost", "provenance", "artifacts"),
}
ABOUT_KEYS = {"method", "scores", "variants"}

# Top-level parts of a config that say how, where or under which name a cell ran, not what was
# measured. They do not shape the record id.
BOOKKEEPING = {
    *("device", "tracking", "force", "label", "experiment", "name", "notes", "tags"),
    *("paths", "results", "out", "cache", "launcher", "hydra", "progress", "threads"),
}


def content_id(obj: Any) -> str:
    """16 hex digits that name a JSON-able value; 1 and 1.0 are the same value."""
    text = json.dumps(_canonical(obj), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(config: Mapping[str, Any], seeds: Mapping[str, int]) -> dict[str, Any]:
    """What was measured on what: the config without its bookkeeping, and the seeds."""
    return {
        "config": {key: value for key, value in config.items() if key not in BOOKKEEPING},
        "seeds": dict(seeds),
    }


def record_id(task: Mapping[str, Any], config: Mapping[str, Any], seeds: Mapping[str, int]) -> str:
    """The id of the record that measures `task` on `config`; known before the run."""
    return content_id({"task": dict(task), "identity": identity(config, seeds)})


def check(data: Mapping[str, Any]) -> None:
    """Raise UserError at the first field that a reader could not rely on."""
    _check_version(data)
    _check_keys("the record", data, KEYS, optional={"about"})
    check_json("record", dict(data))
    _check_task(data["task"])
    _check_created(data["created"])
    _require(isinstance(data["config"], dict), "config", data["config"], "an object")
    _check_seeds(data["seeds"])
    _check_scores(data)
    _check_series(data["series"])
    _check_cost(data["cost"])
    _check_provenance(data["provenance"])
    _check_artifacts(data["artifacts"])
    _check_about(data.get("about", {}), data["schema_version"])
    right = record_id(data["task"], data["config"], data["seeds"])
    _require(data["id"] == right, "id", data["id"], f"{right}, the hash of task, config and seeds")


def check_json(field: str, value: Any) -> None:
    """Only what JSON can hold, and no NaN or infinity at any depth."""
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        _require(math.isfinite(value), field, value, "a finite number; what is absent is skipped")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            if not (type(item) is float and math.isfinite(item)):  # long lists are numbers
                check_json(f"{field}[{i}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _require(isinstance(key, str), f"a key of {field}", key, "a string")
            check_json(f"{field}.{key}", item)
    else:
        _require(False, field, value, "null, true, false, a number, a string, a list or an object")


def _check_version(data: Mapping[str, Any]) -> None:
    version = data.get("schema_version")
    want = "1 or 2, the schemas that this version of gradsae reads"
    _require(type(version) is int and version in READABLE, "schema_version", version, want)


def _check_task(task: Any) -> None:
    _check_keys("task", task, TASK_KEYS)
    name, version = task["name"], task["version"]
    named = isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
    _require(named, "task.name", name, "a lower-case word such as recovery")
    _require(_is_int(version) and version >= 1, "task.version", version, "a whole number from 1")


def _check_created(created: Any) -> None:
    want = "a UTC time such as 2026-11-22T06:15:00+00:00"
    _require(isinstance(created, str), "created", created, want)
    try:
        offset = datetime.fromisoformat(created).utcoffset()
    except ValueError:
        offset = None
    _require(offset is not None and not offset, "created", created, want)


def _check_seeds(seeds: Any) -> None:
    _check_keys("seeds", seeds, SEED_KEYS)
    for name, seed in seeds.items():
        _require(_is_int(seed), f"seeds.{name}", seed, "a whole number")


def _check_scores(data: Mapping[str, Any]) -> None:
    for field in ("scores", "intervals", "n", "skipped"):
        _require(isinstance(data[field], dict), field, data[field], "an object")
    scores, skipped = data["scores"], data["skipped"]
    for name, value in scores.items():
        _check_name("scores", name, SCORE_NAME, "kind/score or kind/score/variant")
        _require(_is_number(value), f"scores[{name}]", value, "a number")
        _require(
            name not in skipped, f"skipped[{name}]", skipped.get(name), "no score of this name"
        )
    for name, interval in data["intervals"].items():
        _require(name in scores, "a key of intervals", name, "the name of a score")
        _check_interval(f"intervals[{name}]", interval)
    for name, count in data["n"].items():
        _check_name("n", name, SKIPPED_NAME, "kind, kind/score or kind/score/variant")
        _require(_is_int(count) and count >= 0, f"n[{name}]", count, "a count")
    for name, reason in skipped.items():
        _check_name("skipped", name, SKIPPED_NAME, "kind, kind/score or kind/score/variant")
        given = isinstance(reason, str) and reason.strip() != ""
        _require(given, f"skipped[{name}]", reason, "the reason, in words")


def _check_interval(field: str, interval: Any) -> None:
    pair = isinstance(interval, list) and len(interval) == 2
    _require(pair and all(map(_is_number, interval)), field, interval, "[low, high]")
    _require(interval[0] <= interval[1], field, interval, "low not above high")


def _check_series(series: Any) -> None:
    _require(isinstance(series, dict), "series", series, "an object")
    for name, columns in series.items():
        field = f"series[{name}]"
        _check_name("series", name, SCORE_NAME, "kind/name")
        _require(isinstance(columns, dict) and bool(columns), field, columns, "columns by name")
        for column, values in columns.items():
            _check_name(field, column, COLUMN_NAME, "a column name such as log10_rate")
            _require(isinstance(values, list), f"{field}.{column}", values, "a list")
            _check_cells(f"{field}.{column}", values)
        lengths = {column: len(values) for column, values in columns.items()}
        _require(len(set(lengths.values())) == 1, field, lengths, "columns of one length")
        total = sum(lengths.values())
        want = f"at most {MAX_SERIES_VALUES}: sample or bin it, big arrays are no record"
        _require(total <= MAX_SERIES_VALUES, f"{field}, number of values", total, want)


def _check_cells(field: str, values: list[Any]) -> None:
    for i, value in enumerate(values):
        if type(value) in (int, float):
            continue
        scalar = value is None or isinstance(value, str | bool | int | float)
        _require(scalar, f"{field}[{i}]", value, "a number, a text, true, false or null")
        if isinstance(value, str):
            want = f"text of at most {MAX_TEXT} characters"
            _require(len(value) <= MAX_TEXT, f"{field}[{i}]", value, want)


def _check_cost(cost: Any) -> None:
    _check_keys("cost", cost, COST_KEYS)
    for name, value in cost.items():
        right = value is None or (_is_number(value) and value >= 0)
        _require(right, f"cost.{name}", value, "a number from 0, or null where it was not measured")


def _check_provenance(found: Any) -> None:
    _require(isinstance(found, dict), "provenance", found, "an object")
    missing = ", ".join(sorted(PROVENANCE_KEYS - set(found)))
    _require(not missing, "provenance", sorted(found), f"also {missing}")
    for field in ("device", "command"):
        _require(isinstance(found[field], str), f"provenance.{field}", found[field], "a string")
    commit, dirty = found["commit"], found["dirty"]
    hexes = isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{7,40}", commit) is not None
    _require(commit is None or hexes, "provenance.commit", commit, "a git hash, or null")
    _require(dirty is None or isinstance(dirty, bool), "provenance.dirty", dirty, "true or false")
    versions = found["versions"]
    named = isinstance(versions, dict) and all(isinstance(v, str) for v in versions.values())
    _require(named, "provenance.versions", versions, "version strings by package")


def _check_artifacts(artifacts: Any) -> None:
    _check_keys("artifacts", artifacts, ARTIFACT_KEYS)
    for name, value in artifacts.items():
        _require(value is None or isinstance(value, str), f"artifacts.{name}", value, "id or null")


def _check_about(about: Any, version: int) -> None:
    """Check what components and scores say of themselves: plain fields of `About` and `Score`."""
    _require(version > 1 or not about, "about", about, "absent: a record of schema 1 has none")
    _check_keys("about", about, set(), optional=ABOUT_KEYS)
    groups = {name: about.get(name, {}) for name in ("variants", "scores")}
    for name, group in groups.items():
        _require(isinstance(group, dict), f"about.{name}", group, "an object")
        _require(len(group) <= MAX_ABOUT, f"number of about.{name}", len(group), f"<= {MAX_ABOUT}")
    if "method" in about:
        _check_declared("about.method", about["method"], About)
    for name, value in groups["variants"].items():
        _check_declared(f"about.variants[{name}]", value, About)
    for name, value in groups["scores"].items():
        _check_declared(f"about.scores[{name}]", value, Score)


def _check_declared(field: str, value: Any, declared: type[About | Score]) -> None:
    fields = dataclasses.fields(declared)
    required = {each.name for each in fields if each.default is dataclasses.MISSING}
    _check_keys(field, value, required, optional={each.name for each in fields} - required)
    for name, item in value.items():
        scalar = item is None or isinstance(item, str | bool | int | float)
        _require(scalar, f"{field}.{name}", item, "a text, a number, true, false or null")
        short = not isinstance(item, str) or len(item) <= MAX_ABOUT
        _require(short, f"{field}.{name}", item, f"text of at most {MAX_ABOUT} characters")


def _check_keys(
    field: str, value: Any, keys: set[str], optional: Collection[str] = frozenset()
) -> None:
    _require(
        isinstance(value, Mapping),
        field,
        value,
        f"an object with {', '.join(sorted({*keys, *optional}))}",
    )
    missing, unknown = keys - set(value), set(value) - keys - set(optional)
    if missing:
        raise UserError(f"{field} lacks the key {', '.join(sorted(missing))}")
    if unknown:
        names = ", ".join(sorted(map(str, unknown)))
        raise UserError(
            f"{field} has an unknown key {_short(names)}; it has {sorted({*keys, *optional})}"
        )


def _check_name(field: str, name: Any, pattern: re.Pattern[str], want: str) -> None:
    right = isinstance(name, str) and len(name) <= 100 and pattern.fullmatch(name) is not None
    _require(right, f"a name in {field}", name, want)


def _require(right: bool, field: str, value: Any, want: str) -> None:
    if not right:
        raise UserError(f"{field} is {_short(repr(value))}; it must be {want}")


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value
