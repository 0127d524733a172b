"""Percentile bootstrap over prompts: how far a mean would move with other prompts."""

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.seeds import make_generator

N_RESAMPLES = 1000
LEVEL = 0.95


def resampled_means(
    values: Float[Tensor, "prompts scores"], seed: int
) -> Float[Tensor, "resamples scores"]:
    """Return the means of N_RESAMPLES draws of as many prompts, with replacement, in float64.

    The same seed and number of prompts give the same draws: two scores of one set of prompts are
    resampled together, so a function of both (a ratio, a difference) is a paired bootstrap.
    Needs two prompts or more: one prompt says nothing about others.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"a bootstrap needs at least 2 prompts, got {n}")
    draws = torch.randint(n, (N_RESAMPLES, n), generator=make_generator(seed, "eval bootstrap"))
    times_drawn = torch.zeros(N_RESAMPLES, n, dtype=torch.float64)
    times_drawn.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
    return times_drawn @ values.double().cpu() / n


def percentiles(
    samples: Float[Tensor, "resamples scores"],
) -> tuple[Float[Tensor, " scores"], Float[Tensor, " scores"]]:
    """Return the lower and upper ends of the central LEVEL share of each score."""
    tail = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=samples.dtype)
    low, high = samples.quantile(tail, dim=0)
    return low, high
