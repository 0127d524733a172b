"""Size of the gradient times size of the activation, signs dropped at every position.

    score_c = sum over positions n of |d m / d a_nc| |a_nc - baseline_nc|

One of the readings of GradSAE in public reimplementations. The baseline is the truth's: 0 for plain
ablation, the mean or a drawn value under `truths.baseline`, whose codes are differences already.
A latent whose positions cancel is overrated, and one that works against the target is not told
from one that supports it.
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
class AbsGrad(Estimator):
    """Never negative."""

    @property
    def name(self) -> str:
        return "abs_grad"

    @property
    def in_units(self) -> bool:
        return False

    @property
    def is_first_order(self) -> bool:
        return True

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        grad = gradient(seen, target, seen.codes[None])[0]
        return (grad * seen.codes).abs().sum(0)

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        return gradient_cost(seen)
