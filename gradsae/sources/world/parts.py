"""What a world is made of: tensors only, wherever they come from."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@final
@dataclass(frozen=True, kw_only=True)
class Trees:
    """Which feature needs which: a child fires only where its parent fires."""

    parent: Int[Tensor, " n_features"]
    """Feature above each one; -1 where there is none."""
    group: Int[Tensor, " n_features"]
    """Features with one number here have one parent and never fire together; -1: not exclusive."""
    scaled: Bool[Tensor, " n_features"]
    """Whether a feature's magnitude is multiplied by its parent's, over the parent's mean."""

    def __post_init__(self) -> None:
        n = len(self.parent)
        if n and not (int(self.parent.min()) >= -1 and int(self.parent.max()) < n):
            raise ValueError(f"a parent must be a feature from 0 to {n - 1}, or -1 for none")
        self.levels()

    def edges(self) -> Int[Tensor, "n_edges 2"]:
        """Return the pairs (parent, child), by child."""
        child = (self.parent >= 0).nonzero().squeeze(1)
        return torch.stack([self.parent[child], child], dim=1)

    def levels(self) -> list[Int[Tensor, " n_at_level"]]:
        """Return the features by depth: roots first, then their children, and so on."""
        depth = torch.zeros_like(self.parent)
        above, ancestors = self.parent, [(self.parent < 0).nonzero().squeeze(1)]
        while bool((above >= 0).any()):
            depth += above >= 0
            above = torch.where(above >= 0, self.parent[above], -1)
            if len(ancestors) > len(self.parent):
                raise ValueError("a feature is its own ancestor")
            ancestors.append(above)
        return [(depth == level).nonzero().squeeze(1) for level in range(len(ancestors))]


@final
@dataclass(frozen=True, kw_only=True)
class World:
    """A law of activations: x = bias + sum over firing features of magnitude times direction.

    Feature i is active on a row when u_i f + sqrt(1 - |u_i|^2) e_i exceeds the threshold that
    probabilities[i] sets, where f ~ N(0, I) is shared by the row. It fires when it is active, its
    draw of N(means[i], spreads[i]^2) is above 0, its parent fires, and it is the one picked, with
    equal chances, among the siblings of its group of which all this is true.
    """

    directions: Float[Tensor, "n_features d_in"]
    bias: Float[Tensor, " d_in"]
    probabilities: Float[Tensor, " n_features"]
    """Of being active, before parents and exclusion take their part."""
    factor: Float[Tensor, "n_features rank"]
    """u: rows of norm below 1. Features i and j have latent correlation u_i u_j."""
    means: Float[Tensor, " n_features"]
    spreads: Float[Tensor, " n_features"]
    trees: Trees

    def __post_init__(self) -> None:
        for name in ("probabilities", "factor", "means", "spreads"):
            if len(getattr(self, name)) != len(self.directions):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries for "
                    f"{len(self.directions)} directions"
                )
        if not bool(((self.probabilities >= 0) & (self.probabilities <= 1)).all()):
            raise ValueError("probabilities must lie between 0 and 1")
        if not bool((self.factor.square().sum(1) < 1).all()):
            raise ValueError("rows of the correlation factor must have a norm below 1")
        for name in ("directions", "bias", "means", "spreads"):
            if not bool(getattr(self, name).isfinite().all()):
                raise ValueError(f"{name} must be finite")
        if not bool((self.spreads >= 0).all()):
            raise ValueError("spreads of magnitudes must be 0 or more")
        above = self.trees.parent[self.trees.scaled & (self.trees.parent >= 0)]
        if not bool((self.means[above] > 0).all()):
            raise ValueError("a parent that scales its children needs a mean magnitude above 0")


def conditional_law(
    world: World,
) -> tuple[Float[Tensor, "n_features rank"], Float[Tensor, " n_features"]]:
    """Return gains and offsets: given f, feature i is active with Phi(offset_i + gain_i f)."""
    factor = world.factor.double()
    alone = (1 - factor.square().sum(1)).sqrt()
    return factor / alone[:, None], torch.special.ndtri(world.probabilities.double()) / alone


def positive_share(world: World) -> Float[Tensor, " n_features"]:
    """Return the probability that a feature's draw of its magnitude is above 0."""
    means, spreads = world.means.double(), world.spreads.double()
    certain = (means > 0).double()
    return torch.where(spreads > 0, torch.special.ndtr(means / spreads.clamp_min(1e-300)), certain)
