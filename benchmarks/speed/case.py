"""One comparison of speed: the same unit of work, done by several contenders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Work = Callable[[], object]
"""One timed unit of work; called many times."""

Setup = Callable[[], Work]
"""Untimed: builds what the work needs."""

FLOOR = "floor"
"""Contender that does only what cannot be avoided; its ratio is ours / floor, lower is better."""

FOREIGN = ("saelens", "dictionary_learning", "sparsify", "dense", "compiled")
"""Contenders that know nothing of this package."""


class Absent(Exception):  # noqa: N818
    """A contender cannot run here; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    """What --only takes."""
    shape: str
    """What --shape takes."""
    unit: str
    """One unit of work in one sentence, and the terms on which other contenders do it."""
    ours: Setup
    contenders: Mapping[str, Setup]
    """By name, without ours."""
    bars: Mapping[str, float] = field(default_factory=dict)
    """The ratio to reach: other / ours at least; for the floor, ours / floor at most."""
    pairs: int = 7
