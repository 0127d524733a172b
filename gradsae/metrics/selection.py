"""What consistency compares: the live latents of a run, and their order by each rule.

The GBA paper (2506.14002, v1 figure 5) asks how consistent the top share of the latents is, by
maximum activation, by Z-score and by others; these two are named there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae.metrics.common import directions, encode
from gradsae.sae.dictionary import Dictionary

RULES = {"act": "peak", "z": "z", "rate": "rate", "mean": "mean"}
"""The field of `Run` that each rule ranks by: maximum activation, Z-score, firing rate, mean."""
ENCODER_BLOCK = 1024


@final
@dataclass(frozen=True, kw_only=True)
class Run:
    """One SAE and what the held-out rows say of its latents."""

    name: str
    directions: Float[Tensor, "d_sae d_in"]
    live: Bool[Tensor, " d_sae"]
    """Fired on some row."""
    peak: Float[Tensor, " d_sae"]
    """Largest norm that the latent wrote: its value times the norm of its direction."""
    z: Float[Tensor, " d_sae"] | None
    """Z-score of its peak projection: see `z_scores`; None where the encoder is not linear."""
    rate: Float[Tensor, " d_sae"]
    """Share of the rows on which it fires."""
    mean: Float[Tensor, " d_sae"]
    """Mean norm that it wrote, over the rows on which it fires; 0 where there are none."""


def z_scores(
    x_in: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, " d_sae"]:
    """Return (max - mean) / std over rows of the projection of a row on each encoder direction.

    How far its best row stands out. Biases shift max and mean alike and drop out, so this is also
    the Z-score of the pre-activation. A projection that does not vary has Z-score 0. The GBA paper
    (2506.14002, v1 figures 5 to 7) selects by a Z-score without its formula; this one is
    ours.
    """
    parts = []
    for rows in W_enc.split(ENCODER_BLOCK):
        u = x_in @ rows.mT
        std = u.std(dim=0, correction=0)
        parts.append(torch.where(std > 0, (u.amax(0) - u.mean(0)) / std, 0.0))
    return torch.cat(parts).cpu()


@torch.no_grad()
def describe(sae: Dictionary, x: Float[Tensor, "batch d_in"], name: str) -> Run:
    """Return what consistency needs to know of an SAE; `x` is held-out rows without outliers."""
    d_sae = sae.d_sae
    fired = torch.zeros(d_sae, dtype=torch.int64)
    peak, total = torch.zeros(d_sae), torch.zeros(d_sae, dtype=torch.float64)
    for _, codes in encode(sae, x):
        fired += codes.fired().cpu()
        peak = torch.maximum(peak, codes.peak().cpu())
        total += codes.total().double().cpu()
    written = directions(sae).cpu()
    norm = written.norm(dim=1)
    reading = sae.reading(x.to(sae.device, sae.dtype))
    return Run(
        name=name,
        directions=written,
        live=fired > 0,
        peak=peak * norm,
        z=None if reading is None else z_scores(*reading),
        rate=fired / max(1, len(x)),
        mean=(total / fired.clamp_min(1)).float() * norm,
    )


def rules_for(runs: Sequence[Run]) -> list[str]:
    """Return the rules that can rank the latents of every run: Z-scores need linear encoders."""
    if any(run.z is None for run in runs):
        return [name for name in RULES if name != "z"]
    return list(RULES)


def ranked(run: Run, rule: str) -> Int[Tensor, " n_live"]:
    """Return the live latents, as places among the live ones, in the order of a rule."""
    return getattr(run, RULES[rule])[run.live].argsort(descending=True, stable=True)


def n_top(n_live: int, alpha: float) -> int:
    """Return how many latents the top share `alpha` holds: the nearest number, at least one."""
    return max(1, round(alpha * n_live))
