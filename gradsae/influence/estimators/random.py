"""Random scores: what agreement looks like by chance."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.about import About
from gradsae.influence.estimator import Estimator
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class Random(Estimator):
    """Standard normal draws among the active latents; either sign is equally likely."""

    name = "random"
    in_units = False

    @property
    def about(self) -> About:
        return About(label="random", family="chance", member=0, is_control=True)

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        return torch.randn(seen.n_active, generator=generator).to(seen.codes.device)
