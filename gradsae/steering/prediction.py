"""How well a score of a latent predicts the effect of steering it, from records alone.

For each prompt: the rank correlation, over its steered latents, between the sizes of a score and of
the effect at a fixed KL; then the mean over prompts, with a bootstrap over prompts. Two scores are
compared prompt by prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradsae.interfaces import Skipped
from gradsae.stats.agreement import spearman
from gradsae.stats.intervals import prompts_interval

EFFECT = "effect_at_kl"


class Statistic(NamedTuple):
    mean: float
    low: float | None
    """95 % bootstrap over prompts; None for a single prompt."""
    high: float | None
    n: int
    """Prompts that have it."""


def by_prompt(
    table: Mapping[str, Sequence[Any]], score: str, *, signed: bool = False
) -> dict[int, float]:
    """Return the Spearman correlation of each prompt that has one, in [-1, 1].

    `table` is the series `budget/latents`: a row per prompt and latent.
    """
    correlations: dict[int, float] = {}
    for prompt in dict.fromkeys(table["prompt"]):
        rows = [i for i, p in enumerate(table["prompt"]) if p == prompt]
        pair = [torch.tensor([table[name][i] for i in rows]).double() for name in (score, EFFECT)]
        estimate, effect = pair if signed else [values.abs() for values in pair]
        value = spearman(estimate, effect)
        if not isinstance(value, Skipped):
            correlations[prompt] = value
    return correlations


def predicts(
    table: Mapping[str, Sequence[Any]], score: str, seed: int = 0, *, signed: bool = False
) -> Statistic | Skipped:
    """Return how well a score predicts the effect at a fixed KL."""
    return _statistic(list(by_prompt(table, score, signed=signed).values()), seed)


def predicts_better(
    table: Mapping[str, Sequence[Any]], score: str, other: str, seed: int = 0
) -> Statistic | Skipped:
    """Return by how much `score` predicts better than `other`, paired by prompt."""
    ours, theirs = by_prompt(table, score), by_prompt(table, other)
    return _statistic([ours[p] - theirs[p] for p in ours if p in theirs], seed)


def _statistic(values: Sequence[float], seed: int) -> Statistic | Skipped:
    if not values:
        return Skipped("on no prompt do both the score and the effect vary")
    column: Tensor = torch.tensor(values, dtype=torch.float64)
    low, high = prompts_interval(values, seed) if len(values) > 1 else (None, None)
    return Statistic(column.mean().item(), low, high, len(values))
