"""Gradient x activation with every norm that reads the stream taken exactly, not by its slope.

    score_c = sum over positions n and readers l of  g_nl . (norm_l(x_nl) - norm_l(x_nl - d_nc))

(d: what entry (n, c) writes, x: the stream that the reader is given, g: the target's gradient at
its output). A large entry rescales everything else that the norm lets through, which a slope cannot
see. What blocks make of the entry on its way, attention patterns and MLPs stay linear, as in the
plain gradient; so do parts of the stream that are read without a norm.

Reference: this project (results/LOG.md, 2026-11-26).
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.about import About
from gradsae.influence.entries import positions_of, split_entries, sum_by_latent
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.contrib.norm_readers import watch_norms
from gradsae.influence.gradient import gradient_and, gradient_cost
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class NormExact(Estimator):
    """Signed, in units of the target."""

    name = "norm_exact"
    is_first_order = True

    @property
    def about(self) -> About:
        return About(label="gradient, norms exact", family="backward", member=0)

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        entries = split_entries(seen)
        with watch_norms(seen.rerun) as readers:
            grad, slopes = gradient_and(
                entries, target, entries.codes[None], lambda _: [reader.out for reader in readers]
            )
        positions = positions_of(entries)
        removed = (entries.codes * entries.scale).sum(0)[:, None] * entries.directions
        effect = (grad[0] * entries.codes).sum(0)
        for reader, slope in zip(readers, slopes, strict=True):
            effect += reader.bend(slope[0].float(), positions, removed)
        return sum_by_latent(seen, effect)

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """Return the cost of one gradient: norms (some 6 d_in operations each) are not counted."""
        return gradient_cost(seen)
