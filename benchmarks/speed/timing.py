"""Ratios taken pair by pair: both contenders run one after the other, so both see the same load."""

import gc
import statistics
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.speed.case import FLOOR, Absent, Case, Setup, Work

LEAST_SECONDS = 0.1
"""A timed block repeats its work for about so long, so that a clock tick or a wake-up is small."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison; seconds are medians for one unit of work."""

    name: str
    shape: str
    what: str
    other: str
    absent: str | None = None
    """Why there are no numbers."""
    pairs: int = 0
    seconds_ours: float | None = None
    seconds_other: float | None = None
    ratio: float | None = None
    """Median over pairs of other / ours; against the floor of ours / floor."""
    least: float | None = None
    most: float | None = None
    bar: float | None = None
    peak_bytes_ours: int | None = None
    peak_bytes_other: int | None = None

    @property
    def met(self) -> bool | None:
        if self.ratio is None or self.bar is None:
            return None
        return self.ratio <= self.bar if self.other == FLOOR else self.ratio >= self.bar

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def compare(case: Case, other: str, pairs: int) -> Row:
    """Time `pairs` pairs of ours and one other, in alternating order, after a warm-up of both."""
    row = Row(name=case.name, shape=case.shape, what=case.what, other=other)
    try:
        works = case.ours(), case.others[other]()
    except Absent as reason:
        return replace(row, absent=str(reason))
    counts = [_warm_up(work) for work in works]
    times: tuple[list[float], list[float]] = ([], [])
    gc.collect()
    for i in range(pairs):
        for side in (0, 1) if i % 2 == 0 else (1, 0):
            times[side].append(_seconds(works[side], counts[side]))
    ours, others = times
    floor = other == FLOOR
    ratios = [a / b if floor else b / a for a, b in zip(ours, others, strict=True)]
    return replace(
        row,
        pairs=pairs,
        seconds_ours=statistics.median(ours),
        seconds_other=statistics.median(others),
        ratio=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
        bar=case.bars.get(other),
    )


def _warm_up(work: Work) -> int:
    """Run the work twice and return how often to repeat it in a timed block."""
    work()
    return max(1, round(LEAST_SECONDS / max(_seconds(work, 1), 1e-9)))


def _seconds(work: Work, n: int) -> float:
    start = time.perf_counter()
    for _ in range(n):
        work()
    return (time.perf_counter() - start) / n


def median_seconds(setup: Setup, repeats: int) -> float:
    """Return the median time of one unit of work after a warm-up."""
    work = setup()
    n = _warm_up(work)
    return statistics.median(_seconds(work, n) for _ in range(repeats))
