"""Size of the gradient times size of the activation, without signs at any position.

    score_c = sum over positions n of |d m / d a_nc| |a_nc - baseline_nc|

One of the readings of GradSAE in public reimplementations. The baseline is the truth's: 0 for plain
ablation, the mean or a drawn value under `truths.baseline`, whose codes are differences already.
A latent whose positions cancel is overrated. A latent that works against the target looks like one
that supports it.
"""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from gradsae.about import About
from gradsae.influence.gradient import GradientEstimator


@final
@dataclass(frozen=True, kw_only=True)
class AbsGrad(GradientEstimator):
    """Never negative."""

    name = "abs_grad"
    in_units = False

    @property
    def about(self) -> About:
        return About(
            label="|grad| x act",
            family="gradient",
            member=1,
            paper="https://arxiv.org/abs/2505.08080",
        )

    def from_gradient(
        self, grad: Float[Tensor, "pos active"], codes: Float[Tensor, "pos active"]
    ) -> Float[Tensor, " active"]:
        return (grad * codes).abs().sum(0)
