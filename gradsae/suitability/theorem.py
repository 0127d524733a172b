"""The conditions of Theorem 6.1 of the GBA paper in numbers, and the verdict on a number.

Reference: Chen et al. 2025, https://arxiv.org/abs/2506.14002. The theorem is asymptotic: its
constants are not given, and here they are all 1. Where it only says "much less than" or "within a
constant", the two named constants below decide, the same for every condition.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

Verdict = Literal["met", "doubtful", "not met"]
VERDICTS: tuple[Verdict, ...] = ("met", "doubtful", "not met")
"""From best to worst."""

MUCH_LESS = 0.3
"""a << b is met where a / b is below this (half an order of magnitude), and not met above 1, where
it is plainly false. A convention: the paper gives no number."""
CONSTANT = 1 / MUCH_LESS
"""Numbers are "within a constant" of each other up to this ratio, and not from its square on (a
factor of 11): the same half order of magnitude, once and twice."""
EPSILON = 0.05
"""Slack of the theorem: result holds with probability 1 - n^(-4 epsilon)."""
ZETA = 0.1
"""Slack of the dimension term: 1 / zeta = 10 gradient steps."""
LEAST_S = 3
"""At s = 1 the co-firing bound n^(-2 / s) lies below 1 / n, and at s = 2 on it: below 3 the
formula has no room and gives no bound."""


class Estimate(NamedTuple):
    """A number with the ends of its 95 % interval; all three equal where it is exact."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Estimate":
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


class Band(NamedTuple):
    """Target rates that the theorem admits: from `low` to `high`; empty where low > high."""

    low: float
    high: float
    binds: str
    """Which of the three upper bounds is the least."""


def exactly(value: int | float) -> Estimate:
    return Estimate(float(value), float(value), float(value))


def much_less(ratio: Estimate) -> Verdict:
    """Judge a << b, from a / b: the whole interval must agree for met or not met."""
    if ratio.high < MUCH_LESS:
        return "met"
    return "not met" if ratio.low > 1 else "doubtful"


def within_constant(ratio: Estimate) -> Verdict:
    """Judge "a and b are of one order", from max / min."""
    if ratio.high <= CONSTANT:
        return "met"
    return "not met" if ratio.low > CONSTANT**2 else "doubtful"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst verdict; of none, met."""
    return VERDICTS[max((VERDICTS.index(verdict) for verdict in verdicts), default=0)]


def band(n: int, s: int | float, d: int | float) -> Band:
    """Return 1 / n <= p <= min(n^(-(1 + 1/s)/2), n^(-2 (1 + epsilon)^2 / s), d^(1 - zeta) / n).

    `n` features, `s` of them active on a row, `d` dimensions.
    """
    bounds = {
        "co-firing": n ** (-(1 + 1 / s) / 2),
        "sparsity": n ** (-2 * (1 + EPSILON) ** 2 / s),
        "dimension": d ** (1 - ZETA) / n,
    }
    binds = min(bounds, key=lambda name: bounds[name])
    return Band(1 / n, bounds[binds], binds)


def log_width(n: int, p: int | float, effective_s: int | float) -> float:
    """Return log10 of the width n p^(-s / (1 - epsilon)^2) that the theorem wants."""
    return math.log10(n) - effective_s / (1 - EPSILON) ** 2 * math.log10(p)
