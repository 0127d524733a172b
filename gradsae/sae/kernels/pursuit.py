"""Sparse coding: non-negative orthogonal matching pursuit, many rows at a time.

Reference: Pati et al. 1993, https://doi.org/10.1109/ACSSC.1993.342465. Differs: an atom must
correlate positively with the residual to be chosen, because codes are not negative. The least
squares over the chosen atoms grow by one row of a Cholesky factor a step (Rubinstein et al. 2008,
"Efficient Implementation of the K-SVD Algorithm using Batch Orthogonal Matching Pursuit"), so
that a step costs little more than its product of residuals and atoms.
"""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import solve_triangular

from gradsae.sae.codes import SparseCodes

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
    n_rows = max(1, ELEMENTS // max(len(atoms), k * max(k, x.shape[1])))
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
    n, norm = len(x), x.norm(dim=1)
    values, chosen = x.new_zeros(n, k), torch.zeros(n, k, dtype=torch.int64, device=x.device)
    count = torch.zeros(n, dtype=torch.int64, device=x.device)
    busy, residual, enough = (norm > 0).nonzero()[:, 0], x[norm > 0], tolerance * norm
    fits = _Fits(x, k)
    for size in range(1, k + 1):
        if len(busy) == 0:
            break
        fit = residual @ atoms.mT
        fit.scatter_(1, chosen[busy, : size - 1], -torch.inf)
        best, atom = fit.max(1)
        busy, atom = busy[best > 0], atom[best > 0]
        chosen[busy, size - 1] = atom
        count[busy] = size
        values[busy, :size], residual = fits.add(busy, atoms[atom], size)
        unfinished = residual.norm(dim=1) > enough[busy]
        busy, residual = busy[unfinished], residual[unfinished]
    stored = torch.arange(k, device=x.device) < count[:, None]
    return values[stored], chosen[stored], count


@final
class _Fits:
    """Least squares of each row over its own growing set of atoms P: (P P^T + ridge) c = P x.

    L is the lower Cholesky factor of the matrix, and y solves L y = P x: a new atom adds a row
    to L and a number to y and changes neither above it.
    """

    def __init__(self, x: Float[Tensor, "batch d_in"], k: int) -> None:
        self._x = x
        self._picked = x.new_zeros(len(x), k, x.shape[1])
        self._L = x.new_zeros(len(x), k, k)
        self._y = x.new_zeros(len(x), k)

    def add(
        self, rows: Int[Tensor, " n"], atom: Float[Tensor, "n d_in"], size: int
    ) -> tuple[Float[Tensor, "n size"], Float[Tensor, "n d_in"]]:
        """Take one more atom into each of some rows; return their coefficients and what is left."""
        self._picked[rows, size - 1] = atom
        picked, L, x = self._picked[rows, :size], self._L[rows, :size, :size], self._x[rows]
        gram = (picked @ atom[:, :, None])[:, :-1]
        row = solve_triangular(L[:, :-1, :-1], gram, upper=False)[:, :, 0]
        free = atom.square().sum(1) + RIDGE - row.square().sum(1)
        L[:, -1, :-1], L[:, -1, -1] = row, free.clamp_min(RIDGE).sqrt()
        y = self._y[rows, :size]
        y[:, -1] = ((atom * x).sum(1) - (row * y[:, :-1]).sum(1)) / L[:, -1, -1]
        self._L[rows, size - 1, :size], self._y[rows, size - 1] = L[:, -1], y[:, -1]
        solved = solve_triangular(L.mT, y[:, :, None], upper=True)
        return solved[:, :, 0], x - (solved.mT @ picked)[:, 0]
