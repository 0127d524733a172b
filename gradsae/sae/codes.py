"""Codes: what an SAE's encoder returns. Sparse by default, dense where most latents are open.

Both classes have the same methods, so a trainer or a metric need not know which one it has.
A latent is *open* (fires) on a row when its stored value is above zero; a sparse code may store
closed entries (a TopK row whose k-th value was negative keeps a zero).

Methods that a training step calls never wait for the device: they read no size that only the device
knows (no boolean index, `bincount` or `nonzero`).
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Transpose(NamedTuple):
    """The entries of a sparse code sorted by latent (compressed columns)."""

    order: Int[Tensor, " nnz"]
    """Position in the row-major arrays of each entry."""
    rows: Int[Tensor, " nnz"]
    """Row (sample) of each entry."""
    offsets: Int[Tensor, " d_sae_plus_1"]
    """Entries of latent j are offsets[j] to offsets[j + 1]."""


@final
@dataclass(frozen=True, kw_only=True)
class SparseCodes:
    """Codes in compressed-row form: entries of row i are offsets[i] to offsets[i + 1]."""

    values: Float[Tensor, " nnz"]
    latents: Int[Tensor, " nnz"]
    offsets: Int[Tensor, " rows_plus_1"]
    d_sae: int
    _pattern: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was computed from latents and offsets alone; shared by codes that differ in values."""

    @property
    def n_rows(self) -> int:
        return len(self.offsets) - 1

    @property
    def rows(self) -> Int[Tensor, " nnz"]:
        """Row of each stored entry."""
        if "rows" not in self._pattern:
            index, nnz = torch.arange(self.n_rows, device=self.offsets.device), len(self.latents)
            self._pattern["rows"] = index.repeat_interleave(self.offsets.diff(), output_size=nnz)
        return self._pattern["rows"]

    @property
    def transpose(self) -> Transpose:
        """The same entries by latent; computed once a batch, used by every backward."""
        if "transpose" not in self._pattern:
            self._pattern["transpose"] = self._transposed()
        return self._pattern["transpose"]

    def _transposed(self) -> Transpose:
        # A radix sort takes a pass for each byte of its keys, so they are as narrow as they can be.
        key = torch.int16 if self.d_sae < 1 << 15 else torch.int32
        latents, order = self.latents.to(key).sort(stable=True)
        ends = torch.arange(self.d_sae + 1, dtype=key, device=latents.device)
        return Transpose(order, self.rows[order], torch.searchsorted(latents, ends))

    def with_values(self, values: Float[Tensor, " nnz"]) -> "SparseCodes":
        """Return codes with the same stored entries and other values."""
        return replace(self, values=values)

    def only(self, keep: Bool[Tensor, " nnz"]) -> "SparseCodes":
        """Return codes that store the entries marked in `keep`, and no others."""
        n_before = torch.cat([self.offsets[:1], keep.cumsum(0)])
        return SparseCodes(
            values=self.values[keep],
            latents=self.latents[keep],
            offsets=n_before[self.offsets],
            d_sae=self.d_sae,
        )

    def to_dense(self) -> Float[Tensor, "batch d_sae"]:
        dense = self.values.new_zeros(self.n_rows, self.d_sae)
        return dense.index_put((self.rows, self.latents), self.values, accumulate=True)

    def n_open(self) -> Int[Tensor, " batch"]:
        """Count the active latents of each row."""
        open_ = (self.values > 0).long()
        return torch.zeros_like(self.offsets[:-1]).index_add(0, self.rows, open_)

    def fired(self) -> Int[Tensor, " d_sae"]:
        """Count the rows on which each latent is active."""
        counts = torch.zeros(self.d_sae, dtype=torch.int64, device=self.latents.device)
        return counts.index_add(0, self.latents, (self.values > 0).long())

    def peak(self) -> Float[Tensor, " d_sae"]:
        """Return the largest value of each latent in this batch; 0 where it is never active."""
        peak = self.values.new_zeros(self.d_sae)
        return peak.scatter_reduce(0, self.latents, self.values.detach(), "amax").relu()

    def total(self) -> Float[Tensor, " d_sae"]:
        """Sum of the values of each latent over the rows on which it is open."""
        total = self.values.new_zeros(self.d_sae)
        return total.index_add(0, self.latents, self.values.detach().relu())

    def weighted_sum(self, weight: Float[Tensor, " d_sae"]) -> Float[Tensor, " batch"]:
        """Sum over latents of value times weight, for each row (the l1 penalty)."""
        products = self.values * weight.index_select(0, self.latents)
        return products.new_zeros(self.n_rows).index_add(0, self.rows, products)


@final
@dataclass(frozen=True, kw_only=True)
class DenseCodes:
    """Codes as a full matrix, for methods whose codes are still dense."""

    values: Float[Tensor, "batch d_sae"]

    def with_values(self, values: Float[Tensor, "batch d_sae"]) -> "DenseCodes":
        """Return codes with other values."""
        return replace(self, values=values)

    @property
    def n_rows(self) -> int:
        return len(self.values)

    @property
    def d_sae(self) -> int:
        return self.values.shape[1]

    def to_dense(self) -> Float[Tensor, "batch d_sae"]:
        return self.values

    def n_open(self) -> Int[Tensor, " batch"]:
        return (self.values > 0).sum(1)

    def fired(self) -> Int[Tensor, " d_sae"]:
        return (self.values > 0).sum(0)

    def peak(self) -> Float[Tensor, " d_sae"]:
        return self.values.detach().amax(0).relu()

    def total(self) -> Float[Tensor, " d_sae"]:
        return self.values.detach().relu().sum(0)

    def weighted_sum(self, weight: Float[Tensor, " d_sae"]) -> Float[Tensor, " batch"]:
        return self.values @ weight


Codes = SparseCodes | DenseCodes


def from_dense(dense: Float[Tensor, "batch d_sae"]) -> SparseCodes:
    """Return the sparse codes that hold the non-zero entries of a matrix."""
    rows, latents = dense.nonzero(as_tuple=True)
    offsets = torch.zeros(len(dense) + 1, dtype=torch.int64, device=dense.device)
    torch.cumsum(torch.bincount(rows, minlength=len(dense)), 0, out=offsets[1:])
    return SparseCodes(
        values=dense[rows, latents], latents=latents, offsets=offsets, d_sae=dense.shape[1]
    )


def from_rows(
    values: Float[Tensor, "batch k"], latents: Int[Tensor, "batch k"], d_sae: int
) -> SparseCodes:
    """Return codes with the same number of stored entries, k, on every row."""
    batch, k = latents.shape
    offsets = torch.arange(batch + 1, device=latents.device) * k
    return SparseCodes(
        values=values.reshape(-1), latents=latents.reshape(-1), offsets=offsets, d_sae=d_sae
    )
