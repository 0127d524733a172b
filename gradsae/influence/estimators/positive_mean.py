"""GradSAE as printed: mean gradient x activation of the probability, positive scores alone.

    score_c = relu(mean over positions n of (d p / d a_nc) a_nc),   p = softmax probability

Reference: Shu et al. 2025, https://arxiv.org/abs/2505.08080, Eq. 3 and the set Z_NZ of positive
scores that both its top and bottom latents come from. The release takes the ReLU before the mean
(`released_gradsae`). Differs from the paper: the SAE's error is kept.
"""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from gradsae.about import About
from gradsae.influence.gradient import GradientEstimator


@final
@dataclass(frozen=True, kw_only=True)
class PositiveMean(GradientEstimator):
    """Never negative."""

    name = "positive_mean"
    in_units = False
    is_first_order = False
    reads_probability = True

    @property
    def about(self) -> About:
        return About(
            label="GradSAE as printed",
            family="gradient",
            member=2,
            paper="https://arxiv.org/abs/2505.08080",
        )

    def from_gradient(
        self, grad: Float[Tensor, "pos active"], codes: Float[Tensor, "pos active"]
    ) -> Float[Tensor, " active"]:
        return (grad * codes).mean(0).relu()
