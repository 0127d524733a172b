"""Ratios taken pair by pair: both contenders work in turn, so both see the same load."""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from benchmarks.speed.case import FLOOR, Absent, Case
from benchmarks.speed.worker import OURS, Worker


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison; seconds are medians for one unit of work."""

    name: str
    shape: str
    unit: str
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


class Contender(Protocol):
    def seconds(self) -> float: ...
    def peak_bytes(self) -> int: ...


def compare(case: Case, other: str, pairs: int) -> Row:
    """Start both contenders, warmed up, and compare them."""
    row = Row(name=case.name, shape=case.shape, unit=case.unit, other=other)
    with ExitStack() as stack:
        try:
            workers = [stack.enter_context(Worker(case, name)) for name in (OURS, other)]
        except Absent as reason:
            return replace(row, absent=str(reason))
        return race(replace(row, bar=case.bars.get(other)), workers, pairs)


def race(row: Row, workers: Sequence[Contender], pairs: int) -> Row:
    """Fill in the numbers of `pairs` pairs of ours and the other, in alternating order."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(pairs):
        for side in (0, 1) if i % 2 == 0 else (1, 0):
            times[side].append(workers[side].seconds())
    ours, theirs = times
    floor = row.other == FLOOR
    ratios = [a / b if floor else b / a for a, b in zip(ours, theirs, strict=True)]
    return replace(
        row,
        pairs=pairs,
        seconds_ours=statistics.median(ours),
        seconds_other=statistics.median(theirs),
        ratio=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
        peak_bytes_ours=workers[0].peak_bytes(),
        peak_bytes_other=workers[1].peak_bytes(),
    )
