"""Screen, then verify: rank by gradient x activation, then ablate the first few for certain.

Reference: Kramar et al. 2024, AtP*, https://arxiv.org/abs/2403.00745, section 3 (exact verification
of a ranked list). Differs from the paper: verified and unverified scores are in the same units and
stay in one list.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.influence.ablation import ablate
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.target import Target
from gradsae.prompt import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class ScreenThenVerify(Estimator):
    """Exact for the `budget` latents that the gradient says support the target most."""

    budget: int = 16
    """Latents that are ablated, all in one batch with an unedited row."""

    def __post_init__(self) -> None:
        checks.whole("budget", self.budget, 1)

    @property
    def name(self) -> str:
        return f"screen_verify_{self.budget}"

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        scores = GradTimesAct().scores(seen, target, generator)
        first = scores.topk(self._n_checked(seen)).indices
        scores[first] = ablate(seen, target, first, batch_rows=len(first) + 1).effect
        return scores

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """At most: as if every verified latent opened at the first position."""
        screen = GradTimesAct().forward_equivalents(seen)
        return screen + (self._n_checked(seen) + 1) * seen.suffix.fraction

    def _n_checked(self, seen: SeenPrompt) -> int:
        return min(self.budget, seen.n_active)
