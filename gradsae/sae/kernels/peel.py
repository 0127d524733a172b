"""Sparse coding with a threshold for each atom: take the atom that stands out most, peel it off,
look again.

Matching pursuit (Mallat and Zhang 1993, https://doi.org/10.1109/78.258082) that asks of each atom
whether it is there at all, instead of how many atoms there should be. Atoms are expected in one
size: one that stands for two features at once, and so would come in the size of both, cannot
explain them. A least-squares fit over the chosen atoms ends it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.sae.codes import SparseCodes

ELEMENTS = 1 << 24
"""Largest temporary, in numbers (64 MiB in fp32)."""
GRAM_ATOMS = 1 << 13
"""Most atoms whose inner products are all computed beforehand (256 MiB in fp32)."""
RIDGE = 1e-2
"""Added to the squared norm, 1, of each chosen atom: the fit stays steady for near-equal atoms."""
LEAST, LARGEST = 0.5, 1.3
"""Coefficients over the size: below, an atom is dropped after the fit; none is above."""


def peel(
    x: Float[Tensor, "batch d_in"],
    atoms: Float[Tensor, "d_sae d_in"],
    threshold: Float[Tensor, " d_sae"],
    size: Float[Tensor, ""],
    k: int,
) -> SparseCodes:
    """Return the coefficients of at most k atoms per row. Rows of `atoms` have norm 1.

    An atom can be taken while its inner product with what is left is above its threshold; of those,
    the one furthest above is. Those that the fit makes smaller than LEAST times `size` keep a 0.
    """
    x = x.to(atoms.dtype)
    gram = atoms @ atoms.mT if len(atoms) <= GRAM_ATOMS else None
    n_rows = max(1, ELEMENTS // max(len(atoms), k * max(k, x.shape[1])))
    parts = x.split(n_rows)
    chosen = [_choose(rows, atoms, gram, threshold, LARGEST * size, k) for rows in parts]
    fits = [_fit(rows, atoms, taken) for rows, taken in zip(parts, chosen, strict=True)]
    values = torch.cat(fits).clamp_max(LARGEST * size)
    values = torch.where(values > LEAST * size, values, 0.0)
    stored = torch.cat([taken >= 0 for taken in chosen])
    offsets = torch.cat([stored.new_zeros(1, dtype=torch.int64), stored.sum(1).cumsum(0)])
    return SparseCodes(
        values=values[stored],
        latents=torch.cat(chosen)[stored],
        offsets=offsets,
        d_sae=len(atoms),
    )


def _choose(
    x: Tensor, atoms: Tensor, gram: Tensor | None, threshold: Tensor, largest: Tensor, k: int
) -> Int[Tensor, "batch k"]:
    """Return the atoms of each row in the order in which they are taken, then -1."""
    chosen = torch.full((len(x), k), -1, device=x.device)
    margin = x @ atoms.mT - threshold
    busy = torch.arange(len(x), device=x.device)
    for size in range(k):
        best, atom = margin.max(1)
        goes_on = best > 0
        busy, atom, best, margin = busy[goes_on], atom[goes_on], best[goes_on], margin[goes_on]
        if len(busy) == 0:
            break
        chosen[busy, size] = atom
        overlap = atoms[atom] @ atoms.mT if gram is None else gram[atom]
        amount = torch.minimum(best + threshold[atom], largest)
        margin.addcmul_(overlap, amount[:, None], value=-1)
        margin.scatter_(1, atom[:, None], -torch.inf)
    return chosen


def _fit(x: Tensor, atoms: Tensor, chosen: Int[Tensor, "batch k"]) -> Float[Tensor, "batch k"]:
    """Return the least-squares coefficients of each row's atoms; 0 where there is none."""
    most = int((chosen >= 0).sum(1).max()) if len(chosen) else 0
    used, values = chosen[:, :most] >= 0, x.new_zeros(chosen.shape)
    picked = atoms[chosen[:, :most].clamp_min(0)] * used[:, :, None]
    absent = torch.diag_embed((~used).to(x) + RIDGE)
    solved = torch.linalg.solve(picked @ picked.mT + absent, picked @ x[:, :, None])
    values[:, :most] = solved[:, :, 0] * used
    return values
