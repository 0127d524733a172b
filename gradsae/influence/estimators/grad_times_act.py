"""Gradient times activation: the first-order Taylor estimate of ablating a latent everywhere.

    score_c = sum over positions n of (d m / d a_nc) a_nc          (signed)

Reference: Shu et al. 2025, GradSAE (https://arxiv.org/abs/2505.08080), Eq. 3; attribution patching
with a zero baseline. Differs from the paper: the sum over positions in place of the mean (the
same ranking, but in units of the effect), signs kept, any scalar, the SAE's error kept.
"""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from gradsae.about import About
from gradsae.influence.gradient import GradientEstimator


@final
@dataclass(frozen=True, kw_only=True)
class GradTimesAct(GradientEstimator):
    """Signed estimate of the ablation effect, in units of the target."""

    name = "grad_times_act"

    @property
    def about(self) -> About:
        return About(
            label="grad x act",
            family="gradient",
            member=0,
            paper="https://arxiv.org/abs/2505.08080",
        )

    def from_gradient(
        self, grad: Float[Tensor, "pos active"], codes: Float[Tensor, "pos active"]
    ) -> Float[Tensor, " active"]:
        return (grad * codes).sum(0)
