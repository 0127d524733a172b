"""Entries: a prompt with one column for each open latent at each position."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.prompts.seen import SeenPrompt


def split_entries(seen: SeenPrompt) -> SeenPrompt:
    """Return the prompt with one column per open entry, so a latent has a column per position.

    Columns are ordered by latent, then by position.
    """
    columns, rows = seen.codes.mT.nonzero(as_tuple=True)
    codes = seen.codes.new_zeros(len(seen.codes), len(columns))
    codes[rows, torch.arange(len(columns), device=codes.device)] = seen.codes[rows, columns]
    return replace(
        seen, latents=seen.latents[columns], codes=codes, directions=seen.directions[columns]
    )


def latent_columns(seen: SeenPrompt) -> Int[Tensor, " entries"]:
    """Return the column of `seen` that each column of `split_entries(seen)` belongs to."""
    return seen.codes.mT.nonzero()[:, 0]


def sum_by_latent(seen: SeenPrompt, values: Float[Tensor, " entries"]) -> Float[Tensor, " active"]:
    """Sum over the entries of each latent, given one value per entry."""
    return values.new_zeros(seen.n_active).index_add(0, latent_columns(seen), values)


def positions_of(entries: SeenPrompt) -> Int[Tensor, " entries"]:
    """Return the position of each entry."""
    return entries.first_open(torch.arange(entries.n_active, device=entries.codes.device))
