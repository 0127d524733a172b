"""One entry: a latent switched off at a single position.

    effect_nc = m(codes) - m(codes with entry (n, c) = 0)

Reference: Shu et al. 2025, GradSAE (https://arxiv.org/abs/2505.08080), Eq. 2, for any scalar and
with the SAE's error kept. Its experiments ablate at all positions instead (`latent`).
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence.truth import About, Singles, Truth
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class Entry(Truth):
    """Every open entry of the codes is a unit."""

    @property
    def name(self) -> str:
        return "entry"

    def ask(self, about: About, generator: torch.Generator) -> Singles:
        split = split_entries(about.seen)
        return Singles(seen=split, columns=about.chosen(split.n_active, generator))


def split_entries(seen: SeenPrompt) -> SeenPrompt:
    """Return the prompt with a column for each open entry; latents are there once per position."""
    columns, rows = seen.codes.mT.nonzero(as_tuple=True)
    codes = seen.codes.new_zeros(len(seen.codes), len(columns))
    codes[rows, torch.arange(len(columns), device=codes.device)] = seen.codes[rows, columns]
    return replace(
        seen, latents=seen.latents[columns], codes=codes, directions=seen.directions[columns]
    )


def latent_columns(seen: SeenPrompt) -> Int[Tensor, " entries"]:
    """Return the column of the prompt that each column of `split_entries` comes from."""
    return seen.codes.mT.nonzero()[:, 0]


def by_latent(seen: SeenPrompt, of_entries: Float[Tensor, " entries"]) -> Float[Tensor, " active"]:
    """Return the sum over the entries of each latent, given one number per entry."""
    return of_entries.new_zeros(seen.n_active).index_add(0, latent_columns(seen), of_entries)
