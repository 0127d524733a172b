"""Interplay: do the effects of latents add up when they are switched off together?

With d(S) the drop of the answer's score when the latents of S are off:

    additivity       d(S) / sum of d(i);  above 1: the latents stand in for each other, so that
                     one alone is not missed; below 1: they need each other
    interaction      d(i) + d(j) - d(ij);  negative where one stands in for the other
    backup           i that does more once the others are gone: d(S) - d(S without i) > d(i)
"""

from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence.target import Target
from gradsae.masking.masked import score
from gradsae.prompt import SeenPrompt


class Interplay(NamedTuple):
    joint: float
    """d(S), in units of the target."""
    single: Float[Tensor, " n"]
    """d(i)."""
    last: Float[Tensor, " n"]
    """d(S) - d(S without i): what a latent does once the others are gone."""
    pairs: Float[Tensor, " n_pairs"]
    """Interactions of the first few latents."""
    suffix_runs: float

    @property
    def additivity(self) -> float | None:
        total = self.single.sum().item()
        return self.joint / total if total > 0 else None

    @property
    def backup(self) -> float:
        """Share of the latents of S that are backups, in [0, 1]."""
        return (self.last > self.single).double().mean().item()

    @property
    def interaction(self) -> float | None:
        """Mean |interaction| over the mean |single effect|."""
        size = self.single.abs().mean().item()
        return self.pairs.abs().mean().item() / size if size > 0 and len(self.pairs) else None


def interplay(
    seen: SeenPrompt,
    target: Target,
    columns: Int[Tensor, " n"],
    *,
    n_paired: int,
    batch_rows: int,
) -> Interplay:
    """Measure a set of columns; pairs are those of its first `n_paired`."""
    members, n = columns.tolist(), len(columns)
    pairs = list(combinations(range(min(n_paired, n)), 2))
    groups = [members, *([c] for c in members)]
    groups += [[d for d in members if d != c] for c in members]
    groups += [[members[i], members[j]] for i, j in pairs]
    kept = torch.ones(len(groups), seen.n_active).to(seen.codes)
    for row, group in zip(kept, groups, strict=True):
        row[group] = 0.0
    found = score(seen, [target], kept, batch_rows=batch_rows)
    drop = found.drop[0].double().cpu()
    joint, single, without = drop[0], drop[1 : n + 1], drop[n + 1 : 2 * n + 1]
    both = [single[i] + single[j] for i, j in pairs]
    interaction = torch.stack(both) - drop[2 * n + 1 :] if pairs else drop[:0]
    return Interplay(joint.item(), single, joint - without, interaction, found.suffix_runs)
