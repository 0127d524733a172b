"""The true features and coefficients of held-out rows, or why there are none."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.interfaces import KnownSource, Skipped, Source
from gradsae.metrics.common import held_out
from gradsae.sae.codes import Codes, SparseCodes


class Truth(NamedTuple):
    """Held-out rows of a source whose features and coefficients are known; all on the CPU."""

    x: Float[Tensor, "batch d_in"]
    codes: SparseCodes
    """True coefficients, those above zero."""
    features: Float[Tensor, "n_features d_in"]
    """Unit-norm true directions."""


def unknown(source: Source) -> Skipped:
    """Return the reason for a source whose true features are not known."""
    return Skipped(f"the true features of {source.name} are not known")


def known_rows(source: Source, n_rows: int, seed: int) -> Truth | Skipped:
    """Return held-out rows with their true coefficients, or why there are none."""
    if not isinstance(source, KnownSource):
        return unknown(source)
    x, truth, _ = held_out(source, n_rows, seed)
    if truth is None:
        return Skipped(f"held-out rows of {source.name} come without their true codes")
    if not bool((truth.values > 0).any()):
        return Skipped("no true feature is active on the held-out rows")
    return Truth(x.cpu(), joined([truth], truth.d_sae), source.features().cpu().float())


def joined(parts: list[Codes], d_sae: int) -> SparseCodes:
    """Return the active entries of several codes, rows one after the other, on the CPU."""
    values, latents, n_open = [torch.zeros(0)], [torch.zeros(0).long()], [torch.zeros(1).long()]
    for codes in parts:
        if isinstance(codes, SparseCodes):
            is_open = codes.values > 0
            values.append(codes.values[is_open].detach().float().cpu())
            latents.append(codes.latents[is_open].cpu())
        else:
            places = (codes.values > 0).nonzero(as_tuple=True)
            values.append(codes.values[places].detach().float().cpu())
            latents.append(places[1].cpu())
        n_open.append(codes.n_open().cpu())
    return SparseCodes(
        values=torch.cat(values),
        latents=torch.cat(latents),
        offsets=torch.cat(n_open).cumsum(0),
        d_sae=d_sae,
    )
