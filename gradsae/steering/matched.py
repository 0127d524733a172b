"""Matched controls: latents that are as strong as the chosen ones, or random directions."""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.interfaces import Skipped
from gradsae.prompts.seen import SeenPrompt
from gradsae.steering.interventions import Chosen


@final
@dataclass(frozen=True, kw_only=True)
class Matched:
    """Control columns, each for one chosen column."""

    columns: Int[Tensor, " k"]
    log_ratio: Float[Tensor, " k"]
    """Log of control strength / chosen strength: 0 is a perfect match."""


def strength(seen: SeenPrompt) -> Float[Tensor, " active"]:
    """Return the mean norm of what each latent writes per position, in raw units."""
    return (seen.codes * seen.scale).mean(0) * seen.directions.norm(dim=1)


def match(
    strengths: Float[Tensor, " active"],
    chosen: Int[Tensor, " k"],
    generator: torch.Generator,
    *,
    n_nearest: int,
) -> Matched | Skipped:
    """Return an unused, not chosen column of nearly the same strength for each chosen column.

    The strongest come first, because those have the fewest peers. Each takes one of the `n_nearest`
    in log strength at random, so that the control does not depend on one unusual latent.
    """
    k, n_active = len(chosen), len(strengths)
    if n_active < 2 * k:
        return Skipped(f"fewer than 2 x {k} latents are active, too few to match {k} others")
    log = strengths.double().clamp_min(1e-30).log().cpu()
    free = torch.ones(n_active, dtype=torch.bool)
    free[chosen.cpu()] = False
    columns = torch.zeros(k, dtype=torch.int64)
    for i in log[chosen.cpu()].argsort(descending=True, stable=True).tolist():
        gap = (log - log[chosen[i]]).abs().masked_fill(~free, torch.inf)
        nearest = gap.argsort(stable=True)[: min(n_nearest, int(free.sum()))]
        pick = torch.randint(len(nearest), (), generator=generator)
        columns[i] = nearest[pick]
        free[columns[i]] = False
    log_ratio = log[columns] - log[chosen.cpu()]
    return Matched(columns=columns.to(chosen.device), log_ratio=log_ratio)


def with_random_directions(chosen: Chosen, generator: torch.Generator) -> Chosen:
    """Return the chosen latents with random directions of the same norms in place of theirs."""
    directions = chosen.directions
    noise = torch.randn(directions.shape, generator=generator).to(directions)
    noise = noise * (directions.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True))
    return replace(chosen, directions=noise)
