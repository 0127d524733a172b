"""What a record may contain: each error names the field, the value and what would be right."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from gradsae.about import About, Score
from gradsae.errors import UserError
from gradsae.records.ids import record_id
from gradsae.records.shapes import (
    COLUMN_NAME,
    COMMIT,
    CONTENT_ID,
    FINITE,
    MAX_ABOUT,
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_KEY,
    MAX_SERIES_VALUES,
    MAX_WORDS,
    READABLE,
    REASON,
    SCORE_NAME,
    SKIPPED_NAME,
    TASK_NAME,
    RecordDict,
    why_not_number,
    why_not_text,
)
from gradsae.storage.sealed import CHECKSUM, checksum_of

FORM = TypeAdapter(RecordDict)
ABOUT_PARTS = {"method", "source", "scores", "variants"}

PATTERNS = {
    TASK_NAME: "a lower-case word such as recovery",
    SCORE_NAME: "kind/score or kind/score/variant",
    SKIPPED_NAME: "kind, kind/score or kind/score/variant",
    COLUMN_NAME: "a column name such as log10_rate",
    COMMIT: "a git hash, or null",
    CONTENT_ID: "the hash that names a checkpoint or a store, or null",
    REASON: "the reason, in words",
}
"""What would be right where a text does not match a pattern."""

KINDS = {
    **{"int_type": "a whole number", "float_type": "a number", "bool_type": "true or false"},
    **{"string_type": "a text", "list_type": "a list", "dict_type": "an object"},
    **{"finite_number": FINITE, "too_short": "columns by name", "model_type": "an object"},
    "string_too_long": "a text of at most {max_length} characters",
    "greater_than_equal": "a number from {ge}",
}
"""What would be right, by pydantic's name of the error."""


def check(data: Mapping[str, Any]) -> None:
    """Raise UserError at the first field that a reader could not rely on."""
    check_version(data.get("schema_version"))
    for name, part in data.items():
        if name != "series":  # its cells are many, and are checked by the form
            check_json(name, part)
    try:
        FORM.validate_python(data)
    except ValidationError as error:
        raise UserError(_explain(error)) from None
    _check_created(data["created"])
    _check_scores(data)
    _check_lengths(data["series"])
    _check_about(data["about"], data["schema_version"])
    right = record_id(data["task"], data["config"], data["seeds"])
    _require(data["id"] == right, "id", data["id"], f"{right}, the hash of task, config and seeds")


def check_file(data: Any) -> dict[str, Any]:
    """Return the parts of a record out of its file's JSON; `check` looks at each of them.

    Raises UserError unless it has the keys of a record, and the content that was written. A record
    of schema 1 has no `about`, and none before schema 3 has a checksum.
    """
    if not isinstance(data, dict):
        raise UserError(f"it holds a {type(data).__name__}; a record is a JSON object")
    keys = set(RecordDict.__annotations__)
    if "schema_version" in data:
        check_version(data["schema_version"])
        keys |= {CHECKSUM} if has_checksum(data) else set()
    _check_keys("the record", data, keys - {"about"}, optional={"about"})
    parts = {name: value for name, value in data.items() if name != CHECKSUM}
    if has_checksum(data) and data[CHECKSUM] != checksum_of(parts):
        raise UserError(
            "its content differs from its checksum, so it was changed after it was written: take "
            "another copy of it, or run its cell again"
        )
    return parts


def check_version(version: Any) -> None:
    want = "1, 2 or 3, the schemas that this version of gradsae reads"
    _require(type(version) is int and version in READABLE, "schema_version", version, want)


def has_checksum(record: Mapping[str, Any]) -> bool:
    """Return whether the file of such a record holds a checksum."""
    return record["schema_version"] > 2


def check_json(field: str, value: Any) -> None:
    """Raise UserError unless `value` holds only what JSON can hold and a reader can bear.

    Numbers are finite and not beyond `MAX_NUMBER`, texts can be written in UTF-8, and nothing is
    longer or deeper than a record needs.
    """
    _check_json((field,), value)


def _check_json(path: tuple[str | int, ...], value: Any) -> None:
    """Check a value; `path` leads to it, and is made a text only for a message."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        want = why_not_text(value, MAX_WORDS)
    elif isinstance(value, int | float):
        want = why_not_number(value)
    elif isinstance(value, list | dict):
        want = "" if len(path) <= MAX_DEPTH else f"nested at most {MAX_DEPTH} deep"
    else:
        want = "null, true, false, a number, a text, a list or an object"
    if want:
        raise UserError(_message(_place(path), value, want))
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or why_not_text(key, MAX_KEY):
                want = f"a text of at most {MAX_KEY} characters that UTF-8 can write"
                raise UserError(_message(f"a key of {_place(path)}", key, want))
            _check_json((*path, key), item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_json((*path, i), item)


def _explain(error: ValidationError) -> str:
    """Return the first error of a record's form in our words."""
    first = error.errors(include_url=False)[0]
    *path, last = first["loc"] or ("the record",)
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    if kind == "missing":
        return f"{_place(path) or 'the record'} lacks the key {last}"
    if kind == "extra_forbidden":
        return f"{_place(path) or 'the record'} has an unknown key {_short(str(last))}"
    if kind == "wanted":
        (value,), place = context["value"], _place([*path, last]) + context["inside"]
        return _message(place, value, context["want"])
    pattern = next((p for p in PATTERNS if context.get("pattern") == f"^{p.pattern}$"), None)
    want = PATTERNS[pattern] if pattern else KINDS.get(kind, "").format(**context)
    want = want or first["msg"].removeprefix("Input should be ")
    if last == "[key]":
        return _message(f"a name in {_place(path[:-1])}", value, want)
    return _message(_place([*path, last]), value, want)


def _place(path: Sequence[str | int]) -> str:
    """Return `scores[recovery/mcc]`, `seeds.init`, `series[a/b].x` for a path through the data."""
    return "".join(map(_step, path)).removeprefix(".")


def _step(key: str | int) -> str:
    """Return how one key is written behind the field that holds it: `.init`, `[recovery/mcc]`."""
    plain = isinstance(key, str) and re.fullmatch(r"\w+", key) is not None
    return f".{key}" if plain else f"[{key}]"


def _check_created(created: str) -> None:
    try:
        offset = datetime.fromisoformat(created).utcoffset()
    except ValueError:
        offset = None
    want = "a UTC time such as 2026-11-22T06:15:00+00:00"
    _require(offset is not None and not offset, "created", created, want)


def _check_scores(data: Mapping[str, Any]) -> None:
    scores, skipped = data["scores"], data["skipped"]
    for name in ("scores", "intervals", "n", "skipped", "series"):
        want = f"at most {MAX_ENTRIES}"
        _require(len(data[name]) <= MAX_ENTRIES, f"number of {name}", len(data[name]), want)
    for name in scores.keys() & skipped.keys():
        _require(False, f"skipped[{name}]", skipped[name], "absent: there is a score of this name")
    for name, interval in data["intervals"].items():
        field = f"intervals[{name}]"
        _require(name in scores, "a key of intervals", name, "the name of a score")
        _require(len(interval) == 2, field, interval, "[low, high]")
        _require(interval[0] <= interval[1], field, interval, "low not above high")


def _check_lengths(series: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    for name, columns in series.items():
        field = f"series[{name}]"
        lengths = {column: len(values) for column, values in columns.items()}
        _require(len(set(lengths.values())) == 1, field, lengths, "columns of one length")
        total = sum(lengths.values())
        want = f"at most {MAX_SERIES_VALUES}: sample or bin it, big arrays are no record"
        _require(total <= MAX_SERIES_VALUES, f"{field}, number of values", total, want)


def _check_about(about: Mapping[str, Any], version: int) -> None:
    """Check what components and scores say of themselves: plain fields of `About` and `Score`."""
    _require(version > 1 or not about, "about", about, "absent: a record of schema 1 has none")
    _check_keys("about", about, set(), optional=ABOUT_PARTS)
    groups = {name: about.get(name, {}) for name in ("variants", "scores")}
    for name, group in groups.items():
        _require(isinstance(group, dict), f"about.{name}", group, "an object")
        _require(len(group) <= MAX_ABOUT, f"number of about.{name}", len(group), f"<= {MAX_ABOUT}")
    for part in ("method", "source"):
        if part in about:
            _check_declared(f"about.{part}", about[part], About)
    for name, value in groups["variants"].items():
        _check_declared(f"about.variants[{name}]", value, About)
    for name, value in groups["scores"].items():
        _check_declared(f"about.scores[{name}]", value, Score)


def _check_declared(field: str, value: Any, declared: type[About | Score]) -> None:
    fields = dataclasses.fields(declared)
    required = {each.name for each in fields if each.default is dataclasses.MISSING}
    _check_keys(field, value, required, optional={each.name for each in fields} - required)
    for name, item in value.items():
        try:
            _forms(declared)[name].validate_python(item, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            want = KINDS.get(first["type"], first["msg"].removeprefix("Input should be "))
            raise UserError(_message(f"{field}.{name}", item, want)) from None
        short = not isinstance(item, str) or len(item) <= MAX_ABOUT
        _require(short, f"{field}.{name}", item, f"a text of at most {MAX_ABOUT} characters")


@cache
def _forms(declared: type[About | Score]) -> dict[str, Any]:
    """Return a TypeAdapter of each field of `About` or `Score`: of the field's own type."""
    return {name: TypeAdapter(form) for name, form in get_type_hints(declared).items()}


def _check_keys(
    field: str, value: Any, keys: set[str], optional: Collection[str] = frozenset()
) -> None:
    known = sorted({*keys, *optional})
    _require(isinstance(value, Mapping), field, value, f"an object with {', '.join(known)}")
    missing, unknown = keys - set(value), set(value) - set(known)
    if missing:
        raise UserError(f"{field} lacks the key {', '.join(sorted(missing))}")
    if unknown:
        names = ", ".join(sorted(map(str, unknown)))
        raise UserError(f"{field} has an unknown key {_short(names)}; it has {known}")


def _require(right: bool, field: str, value: Any, want: str) -> None:
    if not right:
        raise UserError(_message(field, value, want))


def _message(field: str, value: Any, want: str) -> str:
    return f"{_short(field)} is {_short(repr(value))}; it must be {want}"


def _short(text: str) -> str:
    """Return one line of at most 80 letters that a terminal can show."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 80 else text[:77] + "..."
