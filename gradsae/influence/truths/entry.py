"""One entry: a latent switched off at a single position.

    effect_nc = m(codes) - m(codes with entry (n, c) = 0)

Reference: Shu et al. 2025, GradSAE (https://arxiv.org/abs/2505.08080), Eq. 2, for any scalar and
with the SAE's error kept. Its experiments ablate at all positions instead.
"""

from dataclasses import dataclass
from typing import final

import torch

from gradsae.about import About
from gradsae.influence.entries import split_entries
from gradsae.influence.truth import PromptContext, Singles, Truth


@final
@dataclass(frozen=True, kw_only=True)
class Entry(Truth):
    """Every open entry of the codes is a unit."""

    @property
    def name(self) -> str:
        return "entry"

    @property
    def about(self) -> About:
        return About(
            label="at one position", family="entry", paper="https://arxiv.org/abs/2505.08080"
        )

    def prepare(self, context: PromptContext, generator: torch.Generator) -> Singles:
        split = split_entries(context.seen)
        return Singles(seen=split, columns=context.chosen(split.n_active, generator))
