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

N_JITTERED = 8


@final
@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Effects of some latents of one prompt."""

    columns: Int[Tensor, " ablated"]
    """Column of `SeenPrompt.codes` of each effect."""
    effect: Float[Tensor, " ablated"]
    """In units of the target; positive = the latent supports it."""
    n_rows: int
    """Runs of the suffix, unedited rows included."""


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
    effects = []
    for part in columns.split(batch_rows - 1):
        value = evaluate(seen, target, torch.cat([seen.clean[None], seen.without(part)]))
        effects.append(value[:1] - value[1:])
    effect = torch.cat(effects)
    return Ablation(columns=columns, effect=effect, n_rows=len(effect) + len(effects))


@torch.no_grad()
def rounding_noise(seen: SeenPrompt, target: Target, generator: torch.Generator) -> float:
    """Return how far the target moves (root mean square) when the activation is off by rounding.

    N_JITTERED rows: every entry of the clean activation is changed at random by up to one unit in
    the last place of the model's dtype. Rows that are not edited at all would show nothing, as the
    kernels repeat themselves bit by bit; yet each ablation rounds anew in every block that follows.
    """
    clean, eps = seen.clean, torch.finfo(seen.suffix.clean.dtype).eps
    jitter = 2 * torch.rand(N_JITTERED, *clean.shape, generator=generator).to(clean) - 1
    value = evaluate(seen, target, torch.cat([clean[None], clean * (1 + eps * jitter)]))
    return (value[1:] - value[0]).square().mean().sqrt().item()
