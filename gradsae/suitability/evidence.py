"""What is known, or believed, of the features of some activations."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from gradsae.sae.codes import SparseCodes

DUPLICATE = 0.95
"""Atoms of a trained dictionary with a cosine above this are one feature, found twice."""


@final
@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Features with their codes on some rows: the true ones, or those of a reference dictionary."""

    family: str
    """`true features`, or the name of the family of dictionaries."""
    directions: Float[Tensor, "n_features d_in"]
    codes: SparseCodes
    """Length of each feature's part of each row, in one unit for all rows; active is above 0."""
    rates: Float[Tensor, " n_features"] | None = None
    """Exact rates, where they are known; else they are counted on the rows."""
    ceiling: int | None = None
    """Active features of a row that this family cannot exceed."""
    n_ceiling: int | None = None
    """Features that this family cannot exceed."""
    caveat: str = ""
    """What of this evidence the family itself decides."""

    @property
    def n(self) -> int:
        return len(self.directions)


def merged(evidence: Evidence) -> Evidence:
    """Return the evidence with unused atoms dropped and near duplicates added to one atom.

    Atoms are taken from the most used to the least; one that has a cosine above DUPLICATE
    with an earlier one that was kept joins the nearest such one.
    """
    fired = evidence.codes.fired()
    order = fired.argsort(descending=True, stable=True)
    order = order[fired[order] > 0]
    units = torch.nn.functional.normalize(evidence.directions[order], dim=1)
    representatives: list[int] = []
    group = torch.full((evidence.n,), -1)
    close = units @ units.mT > DUPLICATE
    for i, atom in enumerate(order.tolist()):
        duplicates = (
            [k for k, j in enumerate(representatives) if close[i, j]]
            if bool(close[i, :i].any())
            else []
        )
        if duplicates:
            best = torch.stack([units[i] @ units[representatives[k]] for k in duplicates]).argmax()
            group[atom] = duplicates[int(best)]
        else:
            group[atom] = len(representatives)
            representatives.append(i)
    return Evidence(
        family=evidence.family,
        directions=evidence.directions[order[representatives]],
        codes=_regrouped(evidence.codes, group, len(representatives)),
        ceiling=evidence.ceiling,
        n_ceiling=evidence.n_ceiling,
        caveat=evidence.caveat,
    )


def to_scipy(codes: SparseCodes) -> sparse.csr_matrix:
    """Return the open entries of codes as a scipy matrix."""
    arrays = (codes.values.numpy(), codes.latents.numpy(), codes.offsets.numpy())
    matrix = sparse.csr_matrix(arrays, shape=(codes.n_rows, codes.d_sae))
    matrix.data[matrix.data < 0] = 0
    matrix.eliminate_zeros()
    return matrix


def _regrouped(codes: SparseCodes, group: Tensor, n: int) -> SparseCodes:
    """Return codes over `n` features: entry j goes to feature group[j]; values of one add up."""
    matrix = to_scipy(codes)
    arrays = (matrix.data, group.numpy()[matrix.indices], matrix.indptr)
    matrix = sparse.csr_matrix(arrays, shape=(codes.n_rows, n))
    matrix.sum_duplicates()
    return SparseCodes(
        values=torch.from_numpy(matrix.data),
        latents=torch.from_numpy(matrix.indices).long(),
        offsets=torch.from_numpy(matrix.indptr).long(),
        d_sae=n,
    )
