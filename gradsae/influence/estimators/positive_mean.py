"""GradSAE as printed: mean gradient x activation of the probability, positive scores alone.

    score_c = relu(mean over positions n of (d p / d a_nc) a_nc),   p = softmax probability

Reference: Shu et al. 2025, https://arxiv.org/abs/2505.08080, Eq. 3 and the set Z_NZ of positive
scores that both its top and bottom latents come from. The release takes the ReLU before the mean
(`released_gradsae`). Differs from the paper: the SAE's error term is kept.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.gradient import gradient, gradient_cost
from gradsae.influence.target import NextToken, Target
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class PositiveMean(Estimator):
    """Never negative; the target's own scalar plays no part, only its token."""

    @property
    def name(self) -> str:
        return "positive_mean"

    @property
    def in_units(self) -> bool:
        return False

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        first = NextToken(token=target.token, scalar="prob", position=target.positions[0])
        grad = gradient(seen, first, seen.codes[None])[0]
        return (grad * seen.codes).mean(0).relu()

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        return gradient_cost(seen)
