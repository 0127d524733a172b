"""What a component and a score say of themselves.

Tables, figures, the board and the documentation take their words from here and from nowhere else:
no name is taken apart, and no table outside is keyed by a spelling.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any, Literal

from gradsae import checks

Better = Literal["higher", "lower", ""]


@dataclass(frozen=True, kw_only=True)
class About:
    """How one component (method, estimator, truth, source) presents itself to a reader."""

    label: str
    """Short name for people, at most about 30 characters: rows, legends."""
    family: str = ""
    """Components of one family stand together in tables and share a colour: `topk`, `gradient`.
    Families that figures know are in `benchmarks/results/vocabulary.py`; any other is welcome."""
    member: int | None = None
    """Place in its family, from 0: fixes order, marker and dash, so that the component looks the
    same in every figure. None: each figure gives it a marker that is free."""
    paper: str = ""
    """Where it was published: a link, or the empty string for what is ours or folklore."""
    is_control: bool = False
    """True for what is shown beside the contenders and never ranked: chance, ceilings, oracles."""
    needs_truth: bool = False
    """True if it is handed the true features (or true effects) that it is to find."""
    spends_checks: bool = False
    """True for an estimator that spends part of its cost on exact ablations of its own."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One named number that a metric or a task gives."""

    name: str
    """`kind/score`, and the variant where the metric itself names it (`recovery/mcc/matched`)."""
    header: str
    """Short, for the head of a column."""
    better: Better
    """The direction that is better; the empty string where neither is."""
    low: int | float | None = None
    """Least possible value; None where there is none."""
    high: int | float | None = None
    """Largest possible value; None where there is none."""
    unit: str = ""
    """`nats`, for one; the empty string for shares, cosines and other pure numbers."""
    over: str = "rows"
    """What its interval within one record is over: rows, prompts, contexts, windows or seeds."""
    detail: bool = False
    """True for what narrow tables, those on the terminal, leave out."""
    meaning: str
    """What it is: formula and denominator, in one or two sentences."""
    chance: int | float | None = None
    """What a guess scores, where that is known beforehand."""
    ceiling: int | float | None = None
    """What a perfect answer scores, where that is known and is not `high` or `low`."""

    @property
    def bounds(self) -> str:
        """Range, unit and best value in words: `0 to 1`; `from 0, nats`; `any, 1 is best`."""
        low, high = (None if end is None else f"{end:g}" for end in (self.low, self.high))
        words = [f"from {low}"] if low else [f"at most {high}"] if high else []
        words = [f"{low} to {high}"] if low and high else words
        words += [self.unit] if self.unit else []
        words = words or ["any"]
        words += [] if self.ceiling is None else [f"{self.ceiling:g} is best"]
        return ", ".join(words)

    def __post_init__(self) -> None:
        checks.one_of(f"better of {self.name}", self.better, ("higher", "lower", ""))


LATER: Mapping[str, Any] = MappingProxyType({"later": True})
"""Metadata of a hyperparameter that came later: while it has its default it is left out of ids and
records, so that what was made before keeps its id."""
HIDDEN: Mapping[str, Any] = MappingProxyType({"hidden": True})
"""Metadata of a field that never stands in ids and records."""


def is_shown(field: Field[Any], value: Any) -> bool:
    """Whether a field of the dataclass `value` stands in ids and records: see LATER and HIDDEN."""
    given = getattr(value, field.name)
    given = tuple(given) if isinstance(given, list) else given  # a YAML has no tuples
    later = field.metadata.get("later") and given == field.default
    return not (later or field.metadata.get("hidden"))


def plain(value: Any) -> Any:
    """Return a component as JSON values; a component inside another one also says its class."""
    if is_dataclass(value):
        shown = [field for field in fields(value) if is_shown(field, value)]
        return {field.name: _inner(getattr(value, field.name)) for field in shown}
    return _inner(value)


def _inner(value: Any) -> Any:
    if is_dataclass(value):
        return {"class": type(value).__name__, **plain(value)}
    if isinstance(value, Mapping):
        return {key: _inner(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_inner(item) for item in value]
    return value
