"""Where a latent's threshold belongs, from how often it is active and what it reads when not."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Closed(NamedTuple):
    """Pre-activations of each latent, without bias, on rows where it is closed."""

    mean: Float[Tensor, " d_sae"]
    mean_square: Float[Tensor, " d_sae"]


def closed_moments(y: Float[Tensor, "batch d_sae"], is_open: Bool[Tensor, "batch d_sae"]) -> Closed:
    """Return mean and mean square of pre-activations over the rows where a latent is closed."""
    closed = (~is_open).to(y)
    count = closed.sum(0).clamp_min(1)
    return Closed((y * closed).sum(0) / count, (y.square() * closed).sum(0) / count)


def odds_threshold(
    rate: Float[Tensor, " d_sae"],
    size: Float[Tensor, " d_sae"],
    closed: Closed,
    margin: float = 1.0,
) -> Float[Tensor, " d_sae"]:
    """Return the pre-activation above which a latent is likelier active than closed.

    A latent is active with probability `rate` and then reads `size`, else the mean of its closed
    rows; both with the variance v of its closed rows, as a normal distribution. Then

        threshold = (size + mean) / 2 + margin * v / (size - mean) * log((1 - rate) / rate)

    with margin 1. A smaller margin gives the rate less say.
    """
    variance = (closed.mean_square - closed.mean.square()).clamp_min(1e-12)
    gap = (size - closed.mean).clamp_min(1e-6)
    odds = torch.log((1 - rate) / rate)
    return (size + closed.mean) / 2 + margin * variance / gap * odds
