"""Raise the dose in small steps and stop when a budget of side effects is spent.

Two choices of latents at one dose differ in how far they push. At one budget they are compared by
their effect for the same harm. Reference: the gate on side effects of SAEBench's unlearning task
(Karvonen et al. 2025, https://arxiv.org/abs/2503.09532), as a curve in place of a gate.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class AtBudget(NamedTuple):
    value: float
    """Effect in nats where the budget is spent; at the last step if that comes first."""
    reached: bool


def at_budget(
    effect: Float[Tensor, " doses"], kl: Float[Tensor, " doses"], budget: float
) -> AtBudget:
    """Return the effect where the KL first reaches a budget, in nats. Doses rise from no edit.

    Between steps the effect is interpolated over the root of the KL: for small doses the effect
    grows with the dose and the KL with its square.
    """
    return at_cost(effect, kl.double().sqrt(), math.sqrt(budget))


def at_cost(
    effect: Float[Tensor, " doses"], cost: Float[Tensor, " doses"], budget: float
) -> AtBudget:
    """Return the effect where a cost that grows with the dose first reaches a budget.

    A line between steps. The loss on unrelated text is such a cost: it may fall first.
    """
    before = (0.0, 0.0)
    for gain, spent in zip(effect.tolist(), cost.tolist(), strict=True):
        if spent > budget:
            share = (budget - before[1]) / (spent - before[1])
            return AtBudget(before[0] + share * (gain - before[0]), True)
        before = (gain, spent)
    return AtBudget(before[0], False)


def last_safe(costs: Sequence[tuple[Sequence[float], float]]) -> int:
    """Return how many of the first steps keep every cost within its budget.

    A later step that is within its budget again does not count, because raising the dose in steps
    stops before it.
    """
    n_steps = len(costs[0][0])
    for step in range(n_steps):
        if any(values[step] > budget for values, budget in costs):
            return step
    return n_steps
