"""The three products. Each output row is summed in fp32 by one program, in a fixed order.

A result has the widest dtype among the factors, `codes.values` included: bf16 weights with fp32
values give fp32, all bf16 gives bf16.
"""

from typing import NamedTuple

import torch
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.sae.codes import SparseCodes, Transpose
from gradsae.sae.kernels.builtin import widest
from gradsae.sae.kernels.triton.launch import jit, power_of_2, unit_columns

ENTRIES = 16
"""Entries that a program reads at a time."""

WIDTH = 256
"""Most columns of a matrix that a program reads at a time."""

LONGEST = 512
"""Entries of a latent over which its sum is split: a latent that fires on every row would keep one
program busy long after the others are done."""


def gather_sum(
    codes: SparseCodes, values: Float[Tensor, " nnz"], W: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "batch d_in"]:
    """See `reference.gather_sum`."""
    out = torch.empty(codes.n_rows, W.shape[1], dtype=widest(values, W), device=W.device)
    _sum_segments(codes.offsets[:-1], codes.offsets[1:], codes.latents, values, W, out)
    return out


def row_dots(
    codes: SparseCodes, W: Float[Tensor, "d_sae d_in"], g: Float[Tensor, "batch d_in"]
) -> Float[Tensor, " nnz"]:
    """See `reference.row_dots`."""
    W, g = unit_columns(W), unit_columns(g)
    out = torch.empty(len(codes.latents), dtype=widest(codes.values, W, g), device=W.device)
    strides, width = (W.stride(0), g.stride(0)), min(WIDTH, power_of_2(W.shape[1], 16))
    with torch.cuda.device_of(W):
        _dots_kernel[(codes.n_rows,)](
            codes.offsets, codes.latents, W, g, out, *strides,
            d_in=W.shape[1], ENTRIES=ENTRIES, WIDTH=width,
        )  # fmt: skip
    return out


def scatter_outer(
    codes: SparseCodes, values: Float[Tensor, " nnz"], x: Float[Tensor, "batch d_in"]
) -> Float[Tensor, "d_sae d_in"]:
    """See `reference.scatter_outer`."""
    by_latent, dtype = codes.transpose, widest(values, x)
    pieces = _pieces(by_latent, codes.d_sae)
    sums = torch.empty(len(pieces.starts), x.shape[1], dtype=torch.float32, device=x.device)
    _sum_segments(pieces.starts, pieces.stops, by_latent.rows, values[by_latent.order], x, sums)
    _add_pieces(sums, pieces, codes.d_sae)
    return sums[: codes.d_sae].to(dtype)


def dots_and_outer(
    codes: SparseCodes,
    values: Float[Tensor, " nnz"],
    W: Float[Tensor, "d_sae d_in"],
    g: Float[Tensor, "batch d_in"],
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "d_sae d_in"]]:
    """See `builtin.dots_and_outer`."""
    return row_dots(codes, W, g), scatter_outer(codes, values, g)


class _Pieces(NamedTuple):
    """The entries of latent j in pieces of at most LONGEST: piece j, and spare ones behind."""

    starts: Int[Tensor, " d_sae_plus_spare"]
    stops: Int[Tensor, " d_sae_plus_spare"]
    firsts: Int[Tensor, " d_sae_plus_1"]
    """Spare pieces of latent j are firsts[j] to firsts[j + 1], counted from the first spare."""
    owners: Int[Tensor, " spare"]
    """Latent of each spare piece; d_sae where it is not needed."""


def _pieces(by_latent: Transpose, d_sae: int) -> _Pieces:
    """Return the pieces. How many are needed is known on the device alone; nnz bounds it."""
    starts, stops = by_latent.offsets[:-1], by_latent.offsets[1:]
    n_spare = len(by_latent.rows) // LONGEST
    n_further = (stops - starts - 1).clamp_min(0) // LONGEST
    firsts = torch.zeros_like(by_latent.offsets)
    torch.cumsum(n_further, 0, out=firsts[1:])
    spare = torch.arange(n_spare, device=starts.device)
    owners = torch.searchsorted(firsts[1:], spare, right=True)
    j = owners.clamp_max(d_sae - 1)
    spare_starts = starts[j] + LONGEST * (1 + spare - firsts[j])
    spare_stops = torch.where(owners < d_sae, stops[j], spare_starts)
    starts = torch.cat([starts, spare_starts])
    stops = torch.cat([stops, spare_stops]).minimum(starts + LONGEST)
    return _Pieces(starts, stops, firsts, owners)


def _sum_segments(
    starts: Int[Tensor, " n"],
    stops: Int[Tensor, " n"],
    index: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    M: Float[Tensor, "m d_in"],
    out: Float[Tensor, "n d_in"],
) -> None:
    """out[i] = sum of values[e] * M[index[e]] over e from starts[i] to stops[i]."""
    M, d_in = unit_columns(M), M.shape[1]
    width = min(WIDTH, power_of_2(d_in, 16))
    with torch.cuda.device_of(M):
        _sum_kernel[(len(starts), -(-d_in // width))](
            starts, stops, index, values.contiguous(), M, out, M.stride(0), d_in,
            ENTRIES=ENTRIES, WIDTH=width,
        )  # fmt: skip


def _add_pieces(sums: Float[Tensor, "n d_in"], pieces: _Pieces, d_sae: int) -> None:
    """Add each latent's spare pieces to its first, in order."""
    n_spare, d_in = len(pieces.owners), sums.shape[1]
    if n_spare == 0:
        return
    width = min(WIDTH, power_of_2(d_in, 16))
    with torch.cuda.device_of(sums):
        _add_kernel[(n_spare, -(-d_in // width))](
            pieces.owners, pieces.firsts, sums, d_sae, d_in, WIDTH=width
        )


@jit
def _sum_kernel(
    starts, stops, index, values, M, out, stride, d_in, ENTRIES: tl.constexpr, WIDTH: tl.constexpr
):
    i = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < d_in
    start, stop = tl.load(starts + i), tl.load(stops + i)
    total = tl.zeros([ENTRIES, WIDTH], tl.float32)
    while start < stop:
        entry = start + tl.arange(0, ENTRIES)
        value = tl.load(values + entry, mask=entry < stop, other=0).to(tl.float32)
        source_row = tl.load(index + entry, mask=entry < stop, other=0)
        # A closed entry (value 0) need not be fetched.
        mask = (value != 0)[:, None] & inside[None, :]
        tile = tl.load(M + source_row[:, None] * stride + column[None, :], mask=mask, other=0)
        total += value[:, None] * tile.to(tl.float32)
        start += ENTRIES
    tl.store(out + i * d_in + column, tl.sum(total, 0), mask=inside)


@jit
def _dots_kernel(
    offsets, latents, W, g, out, stride_W, stride_g,
    d_in: tl.constexpr, ENTRIES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(offsets + row), tl.load(offsets + row + 1)
    while start < stop:
        entry = start + tl.arange(0, ENTRIES)
        source_row = tl.load(latents + entry, mask=entry < stop, other=0)
        total = tl.zeros([ENTRIES, WIDTH], tl.float32)
        for first in range(0, d_in, WIDTH):
            column = first + tl.arange(0, WIDTH)
            inside = column < d_in
            mask = (entry < stop)[:, None] & inside[None, :]
            tile = tl.load(W + source_row[:, None] * stride_W + column[None, :], mask=mask, other=0)
            line = tl.load(g + row * stride_g + column, mask=inside, other=0).to(tl.float32)
            total += tile.to(tl.float32) * line[None, :]
        tl.store(out + entry, tl.sum(total, 1), mask=entry < stop)
        start += ENTRIES


@jit
def _add_kernel(owners, firsts, sums, d_sae, d_in, WIDTH: tl.constexpr):
    spare = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < d_in
    j = tl.load(owners + spare)
    needed = j < d_sae
    first = tl.load(firsts + j, mask=needed, other=-1)
    # The first spare piece of a latent adds them all; the others have nothing to do.
    stop = tl.load(firsts + j + 1, mask=needed & (first == spare), other=-1)
    if stop > spare:
        total = tl.load(sums + j * d_in + column, mask=inside, other=0)
        piece = spare
        while piece < stop:
            total += tl.load(sums + (d_sae + piece) * d_in + column, mask=inside, other=0)
            piece += 1
        tl.store(sums + j * d_in + column, total, mask=inside)
