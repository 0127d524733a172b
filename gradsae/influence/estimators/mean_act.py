"""Mean activation over positions: the baseline that uses no gradient.

Reference: the baseline of Shu et al. 2025, https://arxiv.org/abs/2505.08080, section 4.
"""

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
class MeanAct(Estimator):
    """Never negative; in the SAE's units, as published: decoder norms play no part."""

    name = "mean_act"
    in_units = False

    @property
    def about(self) -> About:
        return About(
            label="mean act",
            family="activation",
            member=0,
            paper="https://arxiv.org/abs/2505.08080",
        )

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        return seen.codes.mean(0)
