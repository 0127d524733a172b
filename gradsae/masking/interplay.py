"""Interplay: do the effects of latents add up when they are switched off together?

With d(S) the drop of the answer's score when the latents of S are off:

    additivity       d(S) / sum of d(i);  above 1: the latents stand in for each other, so that
                     one alone is not missed; below 1: they need each other
    interaction      d(i) + d(j) - d(ij);  negative where one stands in for the other
    backup           i that does more once the others are off: d(S) - d(S without i) > d(i)
"""

from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence.target import Target
from gradsae.masking.masked import mask_columns, score
from gradsae.prompts.seen import SeenPrompt


class Interplay(NamedTuple):
    joint: float
    """d(S), in units of the target."""
    single: Float[Tensor, " n"]
    """d(i)."""
    last: Float[Tensor, " n"]
    """d(S) - d(S without i): the effect of a latent once the others are off."""
    pairs: Float[Tensor, " n_pairs"]
    """Interactions of the first few latents."""

    @property
    def additivity(self) -> float | None:
        total = self.single.sum().item()
        return self.joint / total if total > 0 else None

    @property
    def backup(self) -> float:
        """Return the share of the latents of S that are backups, in [0, 1]."""
        return (self.last > self.single).double().mean().item()

    @property
    def interaction(self) -> float | None:
        """Mean |interaction| over the mean |single effect|."""
        size = self.single.abs().mean().item()
        return self.pairs.abs().mean().item() / size if size > 0 and len(self.pairs) else None


def groups_of(columns: Int[Tensor, " n"], n_paired: int) -> list[list[int]]:
    """Return the sets whose drops give the interplay of columns: all, each, all but each, pairs."""
    members = columns.tolist()
    pairs = combinations(members[:n_paired], 2)
    without = ([d for d in members if d != c] for c in members)
    return [members, *([c] for c in members), *without, *(list(pair) for pair in pairs)]


def from_drops(drop: Float[Tensor, " groups"], n: int, n_paired: int) -> Interplay:
    """Return the interplay of `n` columns from the drops that `groups_of` causes, in its order."""
    joint, single, without = drop[0], drop[1 : n + 1], drop[n + 1 : 2 * n + 1]
    both = [single[i] + single[j] for i, j in combinations(range(min(n_paired, n)), 2)]
    interaction = torch.stack(both) - drop[2 * n + 1 :] if both else drop[:0]
    return Interplay(joint.item(), single, joint - without, interaction)


def interplay(
    seen: SeenPrompt,
    target: Target,
    columns: Int[Tensor, " n"],
    *,
    n_paired: int,
    batch_rows: int,
) -> Interplay:
    """Measure the interplay of columns; pairs are among the first `n_paired` of them."""
    factors = mask_columns(seen.n_active, groups_of(columns, n_paired), seen.codes)
    joint = score(seen, [target], factors, batch_rows=batch_rows)
    return from_drops(joint.drop[0].double().cpu(), len(columns), n_paired)
