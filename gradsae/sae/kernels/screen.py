"""Selection on CPUs that multiply bfloat16 quickly: screen in bfloat16, verify in float32. Exact.

The encoder's product is made in bfloat16, three to four times as fast as in float32. For every
latent of every row a bound on the rounding error is known, so whatever could be among the k largest
(or above zero) is kept; only those few are multiplied again in float32. The outcome is that of the
float32 product, up to its own rounding.

Error of one product, for rows x and w rounded to bfloat16 (x + dx, w + dw):
    |dx||w| + |x||dw| + |dx||dw|    rounded operands (Cauchy-Schwarz, with the actual |dx| and |dw|)
    d_in 2^-24 |x||w|               float32 sums (Higham 2002, section 3.1)
    2^-8 |product|                  rounded result
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.sae.codes import SparseCodes, from_rows
from gradsae.sae.kernels.cpu import row_dots
from gradsae.sae.kernels.loops import as_numpy, compiled, even, in_parts
from gradsae.sae.kernels.top import LANES, blank, keep_largest, least_of_few, level_below, positions

MIN_MULTIPLY_ADDS = 1 << 31
"""Size of a product under which rounding and screening cost what they save."""
MIN_ROWS = 64
"""Least rows of a chunk."""
CHUNK_BYTES = 1 << 24
"""Of the bfloat16 products held at once: what the last-level cache keeps until they are read."""
SAFETY = np.float32(1.01)
"""Factor on the bound, for the rounding in computing it."""
RESULT = np.float32(2**-8) * SAFETY
"""Rounding error of a product as stored, as a share of it."""
TINY = np.finfo(np.float32).tiny
MOST = 8
"""Candidates verified for each of the k; a row with more (near ties) sends its batch to float32."""


@cache
def _hardware() -> bool:
    """Return True if the CPU has matrix instructions for bfloat16."""
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(check()) if check is not None else False


def applies(x: Float[Tensor, "batch d_in"], W: Float[Tensor, "d_sae d_in"]) -> bool:
    """Return True where screening is faster than the float32 product."""
    return (
        x.device.type == "cpu"
        and x.dtype == W.dtype == torch.float32
        and len(x) * W.numel() >= MIN_MULTIPLY_ADDS
        and _hardware()
    )


class _Rounded(NamedTuple):
    """A matrix in bfloat16, with the norms of its rows and of their rounding errors."""

    bits: np.ndarray
    """[rows, d_in], uint16."""
    norm: np.ndarray
    error: np.ndarray

    def tensor(self) -> Tensor:
        return torch.from_numpy(self.bits.view(np.int16)).view(torch.bfloat16)


@compiled
def _round_rows(start, stop, plain, plain_bits, bits, norm, error):
    """Round to nearest even. `plain_bits` is `plain` seen as uint32."""
    for i in range(start, stop):
        for j in range(plain.shape[1]):
            u = plain_bits[i, j]
            bits[i, j] = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> 16
        row = bits[i].astype(np.uint32) << np.uint32(16)
        back = row.view(np.float32)
        total = np.float32(0)
        lost = np.float32(0)
        for j in range(plain.shape[1]):
            total += plain[i, j] * plain[i, j]
            lost += (plain[i, j] - back[j]) * (plain[i, j] - back[j])
        norm[i] = np.sqrt(total)
        error[i] = np.sqrt(lost)


def _rounded(matrix: Float[Tensor, "rows d_in"]) -> _Rounded:
    plain = matrix.detach().contiguous().numpy()
    # On a cache line, as torch begins its memory and numpy does not: else the product takes three
    # times as long.
    bits = torch.empty(plain.shape, dtype=torch.int16).numpy().view(np.uint16)
    norm, error = np.empty((2, len(plain)), np.float32)
    arrays = [plain, plain.view(np.uint32), bits, norm, error]
    in_parts(_round_rows, even(len(plain)), plain.size, *arrays)
    return _Rounded(bits, norm, error)


@compiled
def _widen(bits, wide):
    for j in range(len(bits)):
        wide[j] = np.uint32(bits[j]) << np.uint32(16)


@compiled
def _lowest(product, bias, norm, reach, low):
    """Write what each float32 pre-activation of one row is at least."""
    for j in range(len(low)):
        low[j] = product[j] + bias[j] - abs(product[j]) * RESULT - reach * norm[j]


@compiled
def _mark(product, bias, norm, reach, level, mask):
    """Write which float32 pre-activations of one row may be `level` or more."""
    for j in range(len(product)):
        high = product[j] + bias[j] + abs(product[j]) * RESULT + reach * norm[j]
        mask[j] = high >= level


@compiled
def _may_be_in_top(start, stop, bits, bias, norm, reach, k, places, n_found):
    n = bits.shape[1]
    wide, low, mask = np.empty(n, np.uint32), np.empty(n, np.float32), blank(n)
    product, words, lanes = (
        wide.view(np.float32),
        mask.view(np.uint64),
        np.empty(LANES * k, np.float32),
    )
    for i in range(start, stop):
        _widen(bits[i], wide)
        _lowest(product, bias, norm, reach[i], low)
        _mark(product, bias, norm, reach[i], level_below(low, n, k, lanes), mask)
        n_found[i] = positions(mask, words, places[i])


@compiled
def _may_open(start, stop, bits, bias, norm, reach, places, n_found):
    n = bits.shape[1]
    wide, mask = np.empty(n, np.uint32), blank(n)
    product, words = wide.view(np.float32), mask.view(np.uint64)
    for i in range(start, stop):
        _widen(bits[i], wide)
        _mark(product, bias, norm, reach[i], TINY, mask)
        n_found[i] = positions(mask, words, places[i])


@compiled
def _join(start, stop, offsets, positions, latents):
    for i in range(start, stop):
        for e in range(offsets[i], offsets[i + 1]):
            latents[e] = positions[i, e - offsets[i]]


@compiled
def _keep(start, stop, offsets, exact, candidates, values, latents):
    heap = np.empty(values.shape[1], np.float32)
    for i in range(start, stop):
        row = exact[offsets[i] : offsets[i + 1]]
        least = least_of_few(row, len(row), heap)
        index = candidates[offsets[i] : offsets[i + 1]]
        keep_largest(row, index, len(row), least, values[i], latents[i])


class _Bounds(NamedTuple):
    """What bounds the error of some rows' products."""

    bias: np.ndarray
    norm: np.ndarray
    """Of the rows of W."""
    reach: np.ndarray
    """For each row of x: error per unit of norm, the rounding of the result left out."""


def _products(x: Tensor, W: Tensor, b: Tensor) -> Iterator[tuple[slice, np.ndarray, _Bounds]]:
    """Yield rows, the bits of their products in bfloat16, and what bounds those."""
    rounded_x, rounded_W = _rounded(x), _rounded(W)
    worst = float((rounded_W.error / np.maximum(rounded_W.norm, TINY)).max())
    sums = W.shape[1] * 2**-24
    reach = (rounded_x.error * (1 + worst) + rounded_x.norm * (worst + sums)) * SAFETY
    step = max(MIN_ROWS, CHUNK_BYTES // (2 * len(W)))
    x_rows, W_cols = rounded_x.tensor(), rounded_W.tensor().mT
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        bits = (x_rows[rows] @ W_cols).view(torch.int16).numpy().view(np.uint16)
        yield rows, bits, _Bounds(as_numpy(b), rounded_W.norm, reach[rows])


Find = Callable[[np.ndarray, _Bounds, np.ndarray, np.ndarray], None]
"""find(bits, bounds, positions, n_found): write what some rows may need."""


def _candidates(
    x: Tensor, W: Tensor, b: Tensor, room: int, most: int, find: Find
) -> SparseCodes | None:
    """Return the exact pre-activations of all candidates.

    None if a row has more than `room` of them, or all rows together more than `most`.
    """
    positions = np.empty((len(x), room), np.int32)
    n_found = np.empty(len(x), np.int64)
    for rows, bits, bounds in _products(x, W, b):
        find(bits, bounds, positions[rows], n_found[rows])
        if n_found[rows].max() > room:
            return None
    codes = joined(positions, n_found, len(W), most)
    if codes is None:
        return None
    return codes.with_values(row_dots(codes, W, x) + b[codes.latents])


def joined(positions: np.ndarray, n_found: np.ndarray, d_sae: int, most: int) -> SparseCodes | None:
    """Return codes, their values unset, at the first n_found[i] positions of each row i.

    None where they are more than `most`.
    """
    offsets = np.concatenate([[0], n_found.cumsum()])
    if offsets[-1] > most:
        return None
    latents = np.empty(offsets[-1], np.int64)
    in_parts(_join, offsets, 4 * len(latents), offsets, positions, latents)
    return SparseCodes(
        values=torch.empty(len(latents)),
        latents=torch.from_numpy(latents),
        offsets=torch.from_numpy(offsets),
        d_sae=d_sae,
    )


def top_k(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_sae d_in"],
    b: Float[Tensor, " d_sae"],
    k: int,
) -> SparseCodes | None:
    """Return the k largest of x W' + b on each row; None where near ties are too many to verify."""

    def find(bits, bounds, positions, n_found):
        arrays = [bits, *bounds, k, positions, n_found]
        in_parts(_may_be_in_top, even(len(bits)), bits.size, *arrays)

    room = min(len(W), MOST * k + 64)
    some = _candidates(x, W, b, room, room * len(x), find)
    return largest(some, k)


def largest(some: SparseCodes | None, k: int) -> SparseCodes | None:
    """Return the k largest of each row's candidates; None where there are none, or too few."""
    if some is None or some.offsets.diff().min() < k:  # too few: NaN
        return None
    n_rows = some.n_rows
    values, latents = torch.empty(n_rows, k), torch.empty(n_rows, k, dtype=torch.int64)
    arrays = [t.numpy() for t in (some.offsets, some.values, some.latents, values, latents)]
    in_parts(_keep, even(n_rows), len(some.values) * 8, *arrays)
    return from_rows(values, latents, some.d_sae)


def above_zero(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_sae d_in"],
    b: Float[Tensor, " d_sae"],
    most: int,
) -> SparseCodes | None:
    """Return the entries of x W' + b above zero; None if they are more than `most`."""

    def find(bits, bounds, positions, n_found):
        arrays = [bits, *bounds, positions, n_found]
        in_parts(_may_open, even(len(bits)), bits.size, *arrays)

    room = min(len(W), 4 * most // len(x) + 64)  # of one row
    return above(_candidates(x, W, b, room, 2 * most, find), most)


def above(some: SparseCodes | None, most: int) -> SparseCodes | None:
    """Return the candidates above zero; None where there are none, or more than `most`."""
    if some is None:
        return None
    is_open = some.values > 0
    n_before = torch.cat([some.offsets[:1], is_open.cumsum(0)])
    if n_before[-1] > most:
        return None
    return SparseCodes(
        values=some.values[is_open],
        latents=some.latents[is_open],
        offsets=n_before[some.offsets],
        d_sae=some.d_sae,
    )
