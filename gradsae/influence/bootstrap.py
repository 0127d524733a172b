"""Percentile bootstrap over prompts: how far a mean would move with other prompts."""

import torch
from jaxtyping import Float
from torch import Tensor


def mean_interval(
    values: Float[Tensor, " prompts"],
    generator: torch.Generator,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the central `level` interval of the mean of prompts drawn with replacement.

    Needs two prompts or more: one prompt says nothing about others.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"a bootstrap needs at least 2 prompts, got {n}")
    draws = torch.randint(n, (n_resamples, n), generator=generator)
    means = values.double()[draws].mean(1)
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
