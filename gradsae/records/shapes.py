"""The shape of a record's parts: one typed dictionary each, which pydantic checks.

`gradsae.records.schema` adds what a shape cannot say (columns of one length, the right id).
"""

import math
import re
from collections.abc import Sequence
from types import NoneType
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # of typing, pydantic accepts it from Python 3.12 on

from gradsae.records.setup import Setup

SCHEMA_VERSION = 3
"""Version 2 added `about`; version 3 the checksum, which stands in the file only."""
READABLE = (1, 2, 3)
MAX_SERIES_VALUES = 20_000
MAX_TEXT = 4_000
"""Characters in one cell of a series."""
MAX_ABOUT = 2_000
"""Entries of a part of `about`, and characters in one of its texts."""
MAX_NAME = 100
MAX_WORDS = 20_000
"""Characters in one text of a config or of a provenance."""
MAX_KEY = 200
"""Characters in a key of a config or of a provenance."""
MAX_DEPTH = 20
"""Objects and lists inside one another."""
MAX_ENTRIES = 5_000
"""Scores of a record; also intervals, counts, reasons and series."""
MAX_NUMBER = 1e100
"""Beyond it sums and squares of a reader would no longer be finite."""
MAX_WHOLE = 2**64
FINITE = "a finite number; what is absent is skipped"
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair of UTF-16: JSON can hold it, UTF-8 cannot."""

TASK_NAME = re.compile(r"[a-z][a-z0-9_]*")
SCORE_NAME = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9][A-Za-z0-9_.+-]*){1,2}")
SKIPPED_NAME = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9][A-Za-z0-9_.+-]*){0,2}")
COLUMN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")
COMMIT = re.compile(r"[0-9a-f]{7,40}")
CONTENT_ID = re.compile(r"[0-9a-f]{8,64}")
REASON = re.compile(r"(?s).*\S.*")


def _like(whole: re.Pattern[str], longest: int | None = MAX_NAME) -> StringConstraints:
    """Return the constraint of a text that matches a pattern from its first to its last letter."""
    return StringConstraints(pattern=f"^{whole.pattern}$", max_length=longest)


NUMBERS = (float, int)
SCALARS = (*NUMBERS, str, bool, NoneType)
Columns = dict[str, list[Any]]
"""One series: columns of one length by name, each a list of `SCALARS`."""

ScoreName = Annotated[str, _like(SCORE_NAME)]
SkippedName = Annotated[str, _like(SKIPPED_NAME)]
ColumnName = Annotated[str, _like(COLUMN_NAME)]
Reason = Annotated[str, _like(REASON, None)]

CLOSED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
OPEN = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


def wrong(value: object, want: str, inside: str = "") -> PydanticCustomError:
    """Return the error of a value (at `inside` of the field, such as `[3]`) that must be `want`."""
    # In a tuple: pydantic would turn a bare text into UTF-8, which half a pair has not.
    context = {"want": want, "value": (value,), "inside": inside}
    return PydanticCustomError("wanted", "it must be {want}", context)


def why_not_number(value: int | float) -> str:
    """Return what a number (whole or not) must be where it is not, or the empty string."""
    if isinstance(value, int):
        return "" if abs(value) < MAX_WHOLE else "a whole number that fits into 64 bits"
    if not math.isfinite(value):
        return FINITE
    return "" if abs(value) <= MAX_NUMBER else f"a number of at most {MAX_NUMBER:g} in size"


def why_not_text(text: str, longest: int) -> str:
    """Return what a text must be where it is not, or the empty string."""
    if len(text) > longest:
        return f"a text of at most {longest} characters"
    return "a text that UTF-8 can write" if SURROGATE.search(text) else ""


def _cells(values: Sequence[Any]) -> Sequence[Any]:
    """Check the values of one column of a series; columns are long, so types are looked at once."""
    kinds = set(map(type, values))
    has_texts = any(issubclass(kind, str) for kind in kinds)
    has_numbers = not kinds <= {str, bool, NoneType}
    for kind in kinds:
        if not issubclass(kind, SCALARS):
            i = next(i for i, value in enumerate(values) if type(value) is kind)
            raise wrong(values[i], "a number, a text, true, false or null", f"[{i}]")
    for i, value in enumerate(values if has_numbers else ()):
        is_number = isinstance(value, NUMBERS)
        if is_number and not -MAX_WHOLE < value < MAX_WHOLE and (want := why_not_number(value)):
            raise wrong(value, want, f"[{i}]")
    for i, value in enumerate(values if has_texts else ()):
        if isinstance(value, str) and (want := why_not_text(value, MAX_TEXT)):
            raise wrong(value, want, f"[{i}]")
    return values


Cells = Annotated[list[Any], AfterValidator(_cells)]


@with_config(CLOSED)
class TaskId(TypedDict):
    """Which task was measured. Scores of two versions are not comparable."""

    name: Annotated[str, _like(TASK_NAME)]
    version: Annotated[int, Field(ge=1)]


@with_config(CLOSED)
class Seeds(TypedDict):
    """The four independent random streams of a cell."""

    world: int
    data: int
    init: int
    eval: int


@with_config(CLOSED)
class Cost(TypedDict):
    """What the cell cost; null where it was not measured."""

    seconds: Annotated[float, Field(ge=0)] | None
    forward_equivalents: Annotated[float, Field(ge=0)] | None
    """In forward passes of the whole model."""
    tokens: Annotated[float, Field(ge=0)] | None
    """Activations that the SAE was trained on."""
    peak_bytes: Annotated[float, Field(ge=0)] | None


@with_config(CLOSED)
class Artifacts(TypedDict):
    """Ids of what the cell left on its machine, or null."""

    checkpoint: Annotated[str, _like(CONTENT_ID)] | None
    activations: Annotated[str, _like(CONTENT_ID)] | None


@with_config(OPEN)
class Provenance(TypedDict):
    """Where the numbers come from; further keys describe the source."""

    commit: Annotated[str, _like(COMMIT)] | None
    dirty: bool | None
    """True where the code had changes that are in no commit."""
    versions: dict[str, str]
    """Of Python and of packages, by name."""
    device: str
    gpu: NotRequired[str | None]
    cpu: NotRequired[str]
    cores: NotRequired[int]
    platform: NotRequired[str]
    command: str
    """As it can be typed again from the repository root."""
    kind: NotRequired[str]
    """What the source is, where it is no language model."""
    model: NotRequired[dict[str, Any]]
    """The language model: name, revision, how its weights were rounded."""
    corpus: NotRequired[dict[str, Any]]
    activations: NotRequired[dict[str, Any]]
    notes: NotRequired[list[str]]
    """What was slower on this model than on others, and why."""


class Declared(TypedDict, total=False):
    """What components and scores say of themselves, for readers who do not have their code."""

    method: dict[str, Any]
    """The fields of `gradsae.about.About`."""
    source: dict[str, Any]
    """The same."""
    scores: dict[str, dict[str, Any]]
    """By `kind/score`: the fields of `gradsae.about.Score`."""
    variants: dict[str, dict[str, Any]]
    """Estimators, by the last part of a score's name: the fields of `About`."""


@with_config(CLOSED)
class RecordDict(TypedDict):
    """A record's file. `gradsae.records.record.Record` says what each key means."""

    schema_version: int
    id: str
    created: str
    task: TaskId
    config: Setup
    seeds: Seeds
    scores: dict[ScoreName, float]
    intervals: dict[str, list[float]]
    n: dict[SkippedName, Annotated[int, Field(ge=0)]]
    skipped: dict[SkippedName, Reason]
    series: dict[ScoreName, Annotated[dict[ColumnName, Cells], Field(min_length=1)]]
    cost: Cost
    provenance: Provenance
    artifacts: Artifacts
    about: dict[str, Any]
