"""GradSAE as its authors released it: ReLU of gradient x activation of the probability, averaged.

    score_c = mean over positions n of relu((d p / d a_nc) a_nc),   p = softmax probability

Reference: repository Tizzzzy/sae_gradient (May 2025) of Shu et al. 2025,
https://arxiv.org/abs/2505.08080. The release departs from the paper's Eq. 3: the ReLU comes before
the mean, so a latent's negative positions are dropped. Differs from the release: the token is the
target's (there: the "[" of an answer template, the model's own greedy token); the model's dtype
(there: fp16); the SAE's error term is kept (there: dropped, from the clean pass too); positions
that the SAE never saw have no code, although they count in the mean.
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
class ReleasedGradSAE(Estimator):
    """Never negative; the target's own scalar plays no part, only its token."""

    @property
    def name(self) -> str:
        return "released_gradsae"

    @property
    def in_units(self) -> bool:
        return False

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        first = target.positions[0]
        probability = NextToken(token=target.token, scalar="prob", position=first)
        grad = gradient(seen, probability, seen.codes[None])[0]
        return (grad * seen.codes).relu().mean(0)

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        return gradient_cost(seen)
