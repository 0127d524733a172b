"""A latent moved to a baseline that is not zero: its mean on held-out text, or a drawn value.

    effect_c = m(codes) - m(codes with column c = baseline)

Zero is far from the usual value of a latent that is nearly always open; its mean is not. With
resampling, each position takes the value at a random held-out row, the same row for all latents.
Estimators see codes - baseline, so gradient x activation becomes gradient x (activation -
baseline). Only the prompt's active latents are moved, at the positions that the SAE sees.

References: mean ablation of Wang et al. 2022, https://arxiv.org/abs/2211.00593; resampling of Chan
et al. 2022 (causal scrubbing).
"""

from dataclasses import dataclass, replace
from typing import Literal, final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.truth import PromptContext, Singles, Truth
from gradsae.sae.codes import DenseCodes
from gradsae.sae.dictionary import Dictionary

Kind = Literal["mean", "resample"]


@final
@dataclass(frozen=True, kw_only=True)
class Baseline(Truth):
    """`mean` or `resample`."""

    kind: Kind = "mean"
    n_rows: int = 1024
    """Number of held-out activations that the mean is over, or that values are drawn from."""

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, get_args(Kind))
        checks.whole("n_rows", self.n_rows, 1)

    @property
    def name(self) -> str:
        return self.kind

    @property
    def about(self) -> About:
        if self.kind == "mean":
            paper = "https://arxiv.org/abs/2211.00593"
            return About(label="its mean in its place", family="baseline", paper=paper)
        return About(label="another row in its place", family="baseline")

    def prepare(self, context: PromptContext, generator: torch.Generator) -> Singles:
        seen, n = context.seen, context.seen.n_active
        rows = context.source.held_out(self.n_rows, context.seed).x.to(seen.codes)
        reference = codes_of(context.sae, rows, seen.latents)
        if self.kind == "mean":
            baseline = reference.mean(0).expand_as(seen.codes)
        else:
            rows_drawn = torch.randint(len(reference), (len(seen.codes),), generator=generator)
            baseline = reference[rows_drawn.to(reference.device)]
        moved = torch.where(context.is_kept[:, None], seen.codes - baseline, 0.0)
        view = replace(seen, codes=moved)
        return Singles(seen=view, columns=context.chosen(n, generator), n_latents=n)


@torch.no_grad()
def codes_of(
    sae: Dictionary, x: Float[Tensor, "rows d_in"], latents: Int[Tensor, " active"]
) -> Float[Tensor, "rows active"]:
    """Return the codes of some latents (ascending) on raw activations."""
    codes = sae(x).codes
    if isinstance(codes, DenseCodes):
        return codes.values[:, latents]
    column = torch.searchsorted(latents, codes.latents).clamp_max(len(latents) - 1)
    is_active = latents[column] == codes.latents
    picked = x.new_zeros(len(x), len(latents))
    picked[codes.rows[is_active], column[is_active]] = codes.values[is_active]
    return picked
