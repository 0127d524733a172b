"""GradDrop: gradient x activation with each later block's gradient dropped in turn.

    score_c = mean over later blocks l of |sum over positions of (d m / d a_nc)_without_l a_nc|

Where what a latent does directly and what later blocks do with it cancel, the gradient is the small
difference of two large numbers and says little. Dropping one block at a time breaks the balance.
The sign is lost.

Reference: Kramar et al. 2024, AtP*, https://arxiv.org/abs/2403.00745. Differs from the paper: a
latent is one node at all positions, and the mean is over the blocks after the site alone (the
others change nothing). After the last block it is |gradient x activation|.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.about import About
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.contrib.backward_rules import Rules, Switch, changed_backward
from gradsae.influence.target import Target, evaluate
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class GradDrop(Estimator):
    """Never negative; in units of the target but for its sign."""

    name = "grad_drop"
    in_units = False
    is_first_order = True

    @property
    def about(self) -> About:
        return About(
            label="GradDrop", family="backward", member=4, paper="https://arxiv.org/abs/2403.00745"
        )

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        switch = Switch()
        codes = seen.codes.detach().requires_grad_()
        layers = list(seen.rerun.later_blocks) or [None]
        total = torch.zeros_like(seen.codes[0])
        with torch.enable_grad(), changed_backward(seen.rerun, Rules(switch=switch)):
            value = evaluate(seen, target, seen.activation(codes)[None]).sum()
            for layer in layers:
                switch.layer = layer
                (grad,) = torch.autograd.grad(value, codes, retain_graph=True)
                total += (grad * seen.codes).sum(0).abs()
        return total / len(layers)

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """Return the cost of one forward, and of a whole backward for each later block."""
        n_backwards = max(len(seen.rerun.later_blocks), 1)
        return 1 + 2 * n_backwards * seen.rerun.fraction
