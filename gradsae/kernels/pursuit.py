"""Sparse coding: non-negative orthogonal matching pursuit, many rows at a time.

Reference: Pati et al. 1993, https://doi.org/10.1109/ACSSC.1993.342465. Differs: an atom must
correlate positively with the residual to be chosen, because codes are not negative.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.codes import SparseCodes

ELEMENTS = 1 << 24
"""Largest temporary, in numbers (64 MiB in fp32)."""
RIDGE = 1e-6
"""Added to the squared norm of each chosen atom, so that near-equal atoms can be solved for."""


def pursue(
    x: Float[Tensor, "batch d_in"], atoms: Float[Tensor, "d_sae d_in"], k: int, tolerance: float
) -> SparseCodes:
    """Return the coefficients of at most k atoms per row; a row is done earlier when the norm of
    what is left is at most `tolerance` of its own. Rows of `atoms` have norm 1.

    Coefficients are those of least squares over the chosen atoms; a few may come out negative.
    """
    n_rows = max(1, ELEMENTS // max(len(atoms), k * x.shape[1]))
    parts = [_pursue(rows, atoms, k, tolerance) for rows in x.split(n_rows)]
    counts = torch.cat([x.new_zeros(1, dtype=torch.int64), *(c for _, _, c in parts)])
    return SparseCodes(
        values=torch.cat([values for values, _, _ in parts]),
        latents=torch.cat([latents for _, latents, _ in parts]),
        offsets=counts.cumsum(0),
        d_sae=len(atoms),
    )


def _pursue(x: Tensor, atoms: Tensor, k: int, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return values and atoms of the entries, row by row, and how many each row has."""
    n = len(x)
    values, chosen = x.new_zeros(n, k), torch.zeros(n, k, dtype=torch.int64, device=x.device)
    count = torch.zeros(n, dtype=torch.int64, device=x.device)
    norm = x.norm(dim=1)
    busy, left, enough = (norm > 0).nonzero()[:, 0], x[norm > 0], tolerance * norm
    for size in range(1, k + 1):
        if len(busy) == 0:
            break
        fit = left @ atoms.mT
        fit.scatter_(1, chosen[busy, : size - 1], -torch.inf)
        best, atom = fit.max(1)
        busy, atom = busy[best > 0], atom[best > 0]
        chosen[busy, size - 1] = atom
        count[busy] = size
        picked = atoms[chosen[busy, :size]]
        gram = picked @ picked.mT + RIDGE * torch.eye(size, dtype=x.dtype, device=x.device)
        solved = torch.linalg.solve(gram, (picked @ x[busy, :, None]))
        values[busy, :size] = solved[:, :, 0]
        left = x[busy] - (solved.mT @ picked)[:, 0]
        unfinished = left.norm(dim=1) > enough[busy]
        busy, left = busy[unfinished], left[unfinished]
    stored = torch.arange(k, device=x.device) < count[:, None]
    return values[stored], chosen[stored], count
