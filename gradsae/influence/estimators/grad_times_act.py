"""Gradient times activation: the first-order Taylor estimate of ablating a latent everywhere.

    score_c = sum over positions n of (d m / d a_nc) a_nc          (signed)

Reference: Shu et al. 2025, GradSAE (https://arxiv.org/abs/2505.08080), Eq. 3; attribution patching
with a zero baseline. Differs from the paper: the sum over positions in place of the mean (the
same ranking, but in units of the effect), signs kept, any scalar, the SAE's error term kept.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.gradient import gradient, gradient_cost
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class GradTimesAct(Estimator):
    """Signed estimate of the ablation effect, in units of the target."""

    @property
    def name(self) -> str:
        return "grad_times_act"

    @property
    def is_first_order(self) -> bool:
        return True

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        return (gradient(seen, target, seen.codes[None])[0] * seen.codes).sum(0)

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        return gradient_cost(seen)
