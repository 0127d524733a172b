"""The truth: what the target loses when one active latent is switched off at every position.

    effect_c = m(codes) - m(codes with column c = 0)

Positive means that the latent supports the target. The SAE's error is held fixed
(`SeenPrompt.without`) and only the model after the site is run again. This is target T2 of the
literature's several "truths": one latent at all positions, zero baseline.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence.target import Target, evaluate
from gradsae.prompt import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Effects of some latents of one prompt."""

    columns: Int[Tensor, " ablated"]
    """Column of `SeenPrompt.codes` of each effect."""
    effect: Float[Tensor, " ablated"]
    """In units of the target; positive = the latent supports it."""
    unedited: Float[Tensor, " batches"]
    """The target in the unedited row of every batch; they differ by rounding alone."""

    @property
    def n_rows(self) -> int:
        """Runs of the suffix, unedited rows included."""
        return len(self.columns) + len(self.unedited)


def forward_equivalents(fraction: float, n_ablated: int) -> float:
    """Cost of one clean pass and one re-run of the suffix per latent, in full forward passes."""
    return 1 + n_ablated * fraction


@torch.no_grad()
def ablate(
    seen: SeenPrompt, target: Target, columns: Int[Tensor, " ablated"], *, batch_rows: int
) -> Ablation:
    """Switch each latent off in turn, `batch_rows` suffix runs at a time.

    The first row of every batch is unedited: an effect is a difference between two rows of one
    call, so that kernels which differ between batch sizes cancel.
    """
    effects, unedited = [], []
    for part in columns.split(batch_rows - 1):
        value = evaluate(seen, target, torch.cat([seen.clean[None], seen.without(part)]))
        effects.append(value[:1] - value[1:])
        unedited.append(value[:1])
    return Ablation(columns=columns, effect=torch.cat(effects), unedited=torch.cat(unedited))
