"""How a world's features differ: firing probabilities, latent correlation, magnitudes, trees.

Each law is that of sae-lens 6.54 (`sae_lens/synthetic/`), written anew; the module is named beside
each. Random parts come from generators of their own, so one can change without the others.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.sources.world.parts import Trees

MIN_ALONE = 0.01
"""Least share of a feature's latent variance that it does not share with others."""


def zipf(
    n_features: int, exponent: int | float, highest: int | float, lowest: int | float
) -> Float[Tensor, " n_features"]:
    """Return rank^-exponent, moved and stretched so that it runs from `highest` to `lowest`.

    `firing_probabilities.zipfian_firing_probabilities`.
    """
    ranks = torch.arange(1, n_features + 1, dtype=torch.float64)
    law = ranks**-exponent
    if n_features == 1:
        return torch.full_like(law, highest)
    return lowest + (highest - lowest) * (law - law[-1]) / (1 - law[-1])


def compensated(rates: Float[Tensor, " n_features"], trees: Trees) -> Float[Tensor, " n_features"]:
    """Return probabilities of being active that make up, roughly, for parents and exclusion.

    A child's is divided by its parent's rate and, in a group, multiplied by one plus the expected
    number of active rivals; at most 1. `Hierarchy.compute_probability_correction_factors`. Where
    the cap is met the true rate stays below `rates` (half of the children of `synthsaebench_16k`).
    """
    child, grouped = trees.parent >= 0, trees.group >= 0
    above = torch.where(child, rates[trees.parent.clamp_min(0)], 1.0)
    rivals = torch.zeros_like(rates)
    if bool(grouped.any()):
        totals = rates.new_zeros(int(trees.group.max()) + 1)
        totals.index_add_(0, trees.group[grouped], rates[grouped])
        rivals[grouped] = totals[trees.group[grouped]] - rates[grouped]
    return (rates / above * (1 + rivals / above)).clamp_max(1.0)


def correlation_factor(
    n_features: int, rank: int, scale: int | float, generator: torch.Generator
) -> Float[Tensor, "n_features rank"]:
    """Return rows of N(0, scale^2), shortened where a feature would share 99 % or more.

    `correlation.generate_random_low_rank_correlation_matrix`.
    """
    factor = scale * torch.randn(n_features, rank, generator=generator)
    squares = factor.square().sum(1, keepdim=True)
    shorter = ((1 - MIN_ALONE) / squares.clamp_min(1e-30)).sqrt()
    return torch.where(squares > 1 - MIN_ALONE, factor * shorter, factor)


def folded_normal(
    n_features: int, mean: int | float, std: int | float, generator: torch.Generator
) -> Float[Tensor, " n_features"]:
    """Return |N(mean, std^2)|: `firing_magnitudes.FoldedNormalMagnitudeConfig`."""
    return (mean + std * torch.randn(n_features, generator=generator)).abs()


def forest_size(n_roots: int, branching: int, depth: int) -> int:
    """Return how many features complete trees need."""
    return n_roots * sum(branching**level for level in range(depth + 1))


def grown_trees(
    n_features: int,
    n_roots: int,
    branching: int,
    depth: int,
    exclusive: int | float,
    scaled: bool,
    generator: torch.Generator,
) -> Trees:
    """Return complete trees numbered level by level from feature 0 on; the rest stand alone.

    A share `exclusive` of the parents, drawn at random, has children that exclude each other.
    `hierarchy.generate_hierarchy`.
    """
    parent = torch.full((n_features,), -1)
    first, size = 0, n_roots
    for _ in range(depth):
        children = torch.arange(size * branching)
        parent[first + size + children] = first + children // branching
        first, size = first + size, size * branching
    n_parents = first if n_roots else 0
    chosen = torch.zeros(n_features + 1, dtype=torch.bool)
    n_chosen = int(n_parents * exclusive)
    chosen[torch.randperm(n_parents, generator=generator)[:n_chosen]] = True
    group = torch.where((parent >= 0) & chosen[parent], parent, -1)
    return Trees(parent=parent, group=group, scaled=(parent >= 0) & scaled)
