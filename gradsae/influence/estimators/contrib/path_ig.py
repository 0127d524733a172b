"""Integrated gradients along each latent's own path, for the latents whose gradient is uncertain.

    score_c = sum over positions of a_nc * mean over i of (d m / d a_nc)(column c scaled by alpha_i)

Unlike the joint path of `integrated_gradients` this converges to the ablation effect itself. It
costs more for each latent than ablating it, so it is spent on the `budget` latents for which one
probe of the curvature says that the first order errs most (|d H d| / 2 = reliability ratio x
|g.d|). All others keep gradient x activation.

Reference: the workflow screen, flag, fix of https://arxiv.org/abs/2606.09899; midpoints.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.contrib.curvature import self_curvature
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.gradient import gradient
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class PathIG(Estimator):
    """Signed, in units of the target."""

    budget: int = 8
    """Latents that are flagged and integrated."""
    n_points: int = 2
    """Midpoints on each path."""

    def __post_init__(self) -> None:
        checks.whole("budget", self.budget, 1)
        checks.whole("n_points", self.n_points, 1)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"path_ig_{self.n_points}x{self.budget}"

    @property
    def about(self) -> About:
        label = f"own-path IG, {self.budget} latents"
        return About(label=label, family="path", member=1, paper="https://arxiv.org/abs/2606.09899")

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        scores = GradTimesAct().scores(seen, target, generator)
        curvature = self_curvature(seen, target, 1, generator).abs()
        flagged = curvature.topk(min(self.budget, seen.n_active)).indices
        scores[flagged] = path_scores(seen, target, flagged, self.n_points)
        return scores

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        n_rows = self.n_points * min(self.budget, seen.n_active)
        return 1 + (2 + 6 + 3 * n_rows) * seen.rerun.fraction


def path_scores(
    seen: SeenPrompt, target: Target, columns: Tensor, n_points: int
) -> Float[Tensor, " columns"]:
    """Return the integrated gradient of each column along its own path, midpoint rule."""
    scores = seen.codes.new_zeros(len(columns))
    for place, column in enumerate(columns.tolist()):
        for i in range(n_points):
            codes = seen.codes.clone()
            codes[:, column] *= (i + 0.5) / n_points
            grad = gradient(seen, target, codes[None])[0, :, column]
            scores[place] += grad @ seen.codes[:, column] / n_points
    return scores
