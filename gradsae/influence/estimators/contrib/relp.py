"""Relevance patching: gradient x activation with the rules of layer-wise relevance propagation.

Norm denominators are constants, activation functions count as multiplication by their secant, and
the two factors of a gated MLP share their gradient in halves.

Reference: RelP, https://arxiv.org/abs/2508.21258. Differs from the paper: the relevance starts at
the target, whatever scalar it is; freezing the attention patterns is off unless asked for (there:
by model). The embedding and the blocks before the site play no part.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.contrib.backward_rules import Rules, scores_under
from gradsae.influence.gradient import gradient_cost
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class RelP(Estimator):
    """Signed, in units of the target."""

    is_first_order = True

    freeze_attention: bool = False
    """No gradient through queries and keys. Needs separate projections for them."""

    def __post_init__(self) -> None:
        checks.flag("freeze_attention", self.freeze_attention)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "relp_frozen_attention" if self.freeze_attention else "relp"

    @property
    def about(self) -> About:
        suffix = ", attention frozen" if self.freeze_attention else ""
        member = 3 if self.freeze_attention else 2
        paper = "https://arxiv.org/abs/2508.21258"
        return About(label=f"RelP{suffix}", family="backward", member=member, paper=paper)

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        rules = Rules(norms=True, secants=True, halves=True, attention=self.freeze_attention)
        return scores_under(seen, target, rules)

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        return gradient_cost(seen)
