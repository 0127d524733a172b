"""Gradient x activation with every norm's denominator held constant: the direct effect.

Removing a latent that makes up much of the residual norm rescales all the rest, and the true
gradient of a norm has no part along its input: a latent that the stream points to is missed. With
the denominators constant it is not, and what a latent does by rescaling others is left out.

Reference: the frozen norms of attribution graphs (Ameisen et al. 2025, circuit tracing), and the
layer norm rule of RelP, https://arxiv.org/abs/2508.21258, alone.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.about import About
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.contrib.backward_rules import Rules, scores_under
from gradsae.influence.gradient import gradient_cost
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class NormFrozen(Estimator):
    """Signed, in units of the target."""

    name = "norm_frozen"
    is_first_order = True

    @property
    def about(self) -> About:
        return About(
            label="norms frozen",
            family="backward",
            member=1,
            paper="https://arxiv.org/abs/2508.21258",
        )

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        return scores_under(seen, target, Rules(norms=True))

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        return gradient_cost(seen)
