"""The law of a world written plainly: every feature is drawn on every row, as sae-lens does."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.special import ndtri

from gradsae.sources.world.parts import World


def dense_codes(world: World, n: int, generator: torch.Generator) -> Float[Tensor, "n n_features"]:
    """Return magnitudes of `n` rows, 0 where a feature does not fire."""

    def normals(*shape: int) -> Float[Tensor, "..."]:
        return torch.randn(*shape, generator=generator)

    n_features, rank = world.factor.shape
    alone = (1 - world.factor.square().sum(1)).sqrt()
    latent = normals(n, rank) @ world.factor.mT + alone * normals(n, n_features)
    active = latent > -ndtri(world.probabilities)
    values = (world.means + world.spreads * normals(n, n_features)).relu() * active
    for depth, features in enumerate(world.trees.levels()):
        if depth > 0:
            above = world.trees.parent[features]
            share = values[:, above] / world.means[above]
            share = torch.where(world.trees.scaled[features], share, 1.0)
            values[:, features] *= share * (values[:, above] > 0)
        for group in world.trees.group[features].unique().tolist():
            if group >= 0:
                rivals = features[world.trees.group[features] == group]
                values[:, rivals] *= _one_of(values[:, rivals] > 0, generator)
    return values


def _one_of(
    firing: Bool[Tensor, "n rivals"], generator: torch.Generator
) -> Bool[Tensor, "n rivals"]:
    """Keep one of the features that fire on each row, all with the same chance."""
    lots = torch.rand(firing.shape, generator=generator) + firing.float()
    return firing & (lots == lots.amax(1, keepdim=True))
