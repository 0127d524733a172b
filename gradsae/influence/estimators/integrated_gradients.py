"""Integrated gradients along the joint path: all latents are scaled from 0 to their values at once.

    score_c = sum over positions n of a_nc * mean over i of (d m / d a_nc)(alpha_i a),
    alpha_i = (i + 1/2) / n_points, i = 0 .. n_points - 1

Reference: Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365; for SAE latents Marks et al.
2024, https://arxiv.org/abs/2403.19647. Differs from the latter: midpoints (there: left ends, which
lean to the clean gradient), and the SAE's error term stays where it is. With many points the scores
add up to m(all codes) - m(no codes): shares of a joint removal, not effects of single removals.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.estimator import Estimator
from gradsae.influence.gradient import gradient
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(Estimator):
    """Signed, in units of the target."""

    n_points: int = 8

    def __post_init__(self) -> None:
        checks.whole("n_points", self.n_points, 1)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"ig_{self.n_points}"

    @property
    def about(self) -> About:
        label = f"joint-path IG, {self.n_points} points"
        return About(label=label, family="path", member=0, paper="https://arxiv.org/abs/1703.01365")

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        total = torch.zeros_like(seen.codes)
        for i in range(self.n_points):  # one at a time: a batch would hold every graph at once
            alpha = (i + 0.5) / self.n_points
            total += gradient(seen, target, alpha * seen.codes[None])[0]
        return (total / self.n_points * seen.codes).sum(0)

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        return 1 - seen.rerun.fraction + 3 * self.n_points * seen.rerun.fraction
