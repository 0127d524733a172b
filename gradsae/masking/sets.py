"""Sets of latents that are switched off together, taken from the ends of a ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.prompts.seen import SeenPrompt

Kind = Literal["top", "bottom", "keep"]
"""top: the K largest are off. bottom: the K smallest positive ones are off, which is the control of
the GradSAE paper. keep: all but the K largest are off."""

K = int | float
"""A whole number, or a share of the latents that are open at the last position."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LatentSet:
    """Latents that are switched off together, and why these."""

    ranking: str
    kind: str
    """One of `Kind`."""
    k: K
    """As the task states it."""
    columns: Int[Tensor, " n"]
    """The first or last columns of the ranking; for `keep`, the ones that stay."""

    @property
    def n(self) -> int:
        return len(self.columns)


def count(seen: SeenPrompt, k: K) -> int:
    """Return the number of latents that K means on a prompt, from 1 to all active ones."""
    if isinstance(k, int):
        return min(k, seen.n_active)
    open_last = int((seen.codes[-1] > 0).sum())
    return max(1, min(round(k * open_last), seen.n_active))


def top(scores: Float[Tensor, " active"], n: int) -> Int[Tensor, " n"]:
    """Return the columns of the largest scores; ties go to the lower number."""
    return scores.sort(descending=True, stable=True).indices[:n]


def bottom(scores: Float[Tensor, " active"], n: int) -> Int[Tensor, " n"]:
    """Return the columns of the smallest positive scores, fewer where there are fewer."""
    order = scores.sort(stable=True).indices
    return order[scores[order] > 0][:n]


def sets_of(
    seen: SeenPrompt,
    scores: Mapping[str, Float[Tensor, " active"]],
    ks: Sequence[K],
    kinds: Sequence[str],
) -> list[LatentSet]:
    """Return the sets of every ranking, kind and K; sets without a latent are left out."""
    sets = []
    for ranking, values in scores.items():
        for kind in kinds:
            for k in ks:
                choose = bottom if kind == "bottom" else top
                columns = choose(values, count(seen, k))
                if len(columns):
                    sets.append(LatentSet(ranking=ranking, kind=kind, k=k, columns=columns))
    return sets


def kept_latents(seen: SeenPrompt, sets: Sequence[LatentSet]) -> Float[Tensor, "sets active"]:
    """Return one row per set: 1 for a latent that stays, 0 for one that is off."""
    rows = torch.ones(len(sets), seen.n_active).to(seen.codes)
    for row, latent_set in zip(rows, sets, strict=True):
        if latent_set.kind == "keep":
            row.zero_()
            row[latent_set.columns] = 1.0
        else:
            row[latent_set.columns] = 0.0
    return rows


def overlap(a: Int[Tensor, " n"], b: Int[Tensor, " m"]) -> float:
    """Return the share of common members, |A and B| / max(|A|, |B|), in [0, 1]."""
    return len(set(a.tolist()) & set(b.tolist())) / max(len(a), len(b), 1)
