"""GradSAE as its authors released it: ReLU of gradient x activation of the probability, averaged.

    score_c = mean over positions n of relu((d p / d a_nc) a_nc),   p = softmax probability

Reference: repository Tizzzzy/sae_gradient (May 2025) of Shu et al. 2025,
https://arxiv.org/abs/2505.08080. The release departs from the paper's Eq. 3: the ReLU comes before
the mean, so a latent's negative positions are dropped. Differs from the release: the token is the
target's (there: the "[" of an answer template, the model's own greedy token); the model's dtype
(there: fp16); the SAE's error is kept (there: dropped, from the clean pass too); positions that the
SAE never saw have no code, although they count in the mean.
"""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from gradsae.about import About
from gradsae.influence.gradient import GradientEstimator


@final
@dataclass(frozen=True, kw_only=True)
class ReleasedGradSAE(GradientEstimator):
    """Never negative."""

    name = "released_gradsae"
    in_units = False
    is_first_order = False
    reads_probability = True

    @property
    def about(self) -> About:
        return About(
            label="released GradSAE",
            family="gradient",
            member=3,
            paper="https://arxiv.org/abs/2505.08080",
        )

    def from_gradient(
        self, grad: Float[Tensor, "pos active"], codes: Float[Tensor, "pos active"]
    ) -> Float[Tensor, " active"]:
        return (grad * codes).relu().mean(0)
