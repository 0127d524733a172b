"""95 % intervals of a mean: over seeds, over prompts, over worlds.

Three laws, because three things are drawn anew. A few seeds: Student's t. Many prompts: the
percentile bootstrap. Several worlds with a few seeds in each: a bootstrap of both levels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

N_RESAMPLES = 10_000
"""Of the bootstrap over worlds; that over prompts has its own (`bootstrap.N_RESAMPLES`)."""


class Mean(NamedTuple):
    """Mean of n values with its 95 % interval; no interval for a single value."""

    mean: float
    low: float | None
    high: float | None
    n: int


def seeds_interval(values: Sequence[float | int]) -> Mean:
    """Return the mean over seeds and its two-sided 95 % Student t interval.

    n - 1 degrees of freedom. The interval is not clipped to the range of the score. Raises
    ValueError for no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("the mean of no values")
    if n == 1:
        return Mean(float(values[0]), None, None, 1)
    if min(values) == max(values):
        return Mean(float(values[0]), float(values[0]), float(values[0]), n)
    mean = math.fsum(values) / n
    from scipy.special import stdtrit

    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n)
    return Mean(mean, mean - half, mean + half, n)


def prompts_interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean over prompts.

    Raises ValueError for fewer than two values: one prompt says nothing about others.
    """
    import torch

    from gradsae.stats.bootstrap import percentiles, resampled_means

    column = torch.tensor(values, dtype=torch.float64)[:, None]
    low, high = percentiles(resampled_means(column, seed))
    return low.item(), high.item()


def worlds_interval(values: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float, float]:
    """Return the mean over worlds of the mean over seeds, and its 95 % bootstrap interval.

    `values`: one row per world, one value per seed. Each resample draws worlds, then seeds within
    each drawn world, both with replacement.
    """
    generator = np.random.default_rng(seed)
    resampled = np.empty((N_RESAMPLES, len(values)))
    worlds = generator.integers(len(values), size=resampled.shape)
    for world, row in enumerate(values):
        is_world = worlds == world
        picks = generator.integers(len(row), size=(int(is_world.sum()), len(row)))
        resampled[is_world] = np.asarray(row)[picks].mean(axis=1)
    low, high = np.quantile(resampled.mean(axis=1), [0.025, 0.975])
    return float(np.mean([np.mean(row) for row in values])), float(low), float(high)
