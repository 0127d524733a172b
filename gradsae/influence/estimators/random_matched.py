"""Activation-matched random: each latent gets the score of one that writes about as much.

Latents are sorted by the size of what they write, and gradient x activation is shuffled within runs
of `group` neighbours. What is left of the agreement is due to size alone; a gradient that finds the
right latents must beat it.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.gradient import gradient_cost, write_norms
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class RandomMatched(Estimator):
    """Signed, as large as gradient x activation, and in the wrong places."""

    group: int = 8

    def __post_init__(self) -> None:
        checks.whole("group", self.group, 2)

    name = "random_matched"
    is_first_order = True

    @property
    def about(self) -> About:
        return About(label="random, matched", family="chance", member=1, is_control=True)

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        scores = GradTimesAct().scores(seen, target, generator)
        shuffled = scores.clone()
        for group in write_norms(seen).argsort(stable=True).split(self.group):
            order = torch.randperm(len(group), generator=generator).to(group.device)
            shuffled[group] = scores[group[order]]
        return shuffled

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        return gradient_cost(seen)
