"""The three products and threshold selection compiled with numba, for float32 and float64.

Each row (or latent) is summed in storage order by one thread, so results do not depend on the
number of threads.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.sae.codes import SparseCodes, Transpose
from gradsae.sae.kernels import lanes
from gradsae.sae.kernels.loops import as_numpy, compiled, even, in_parts
from gradsae.sae.kernels.top import largest_of_rows


@compiled
def _sum_rows(start, stop, offsets, index, values, W, out):
    for i in range(start, stop):
        row = out[i]
        row[:] = 0
        for e in range(offsets[i], offsets[i + 1]):
            v = values[e]
            if v != 0:
                w = W[index[e]]
                for d in range(W.shape[1]):
                    row[d] += v * w[d]


@compiled
def _dots(start, stop, offsets, rows, order, g, W, out):
    for j in range(start, stop):
        w = W[j]
        for e in range(offsets[j], offsets[j + 1]):
            x = g[rows[e]]
            total = W.dtype.type(0)
            for d in range(len(w)):
                total += x[d] * w[d]
            out[order[e]] = total


@compiled
def _dots_and_sums(start, stop, offsets, rows, order, g, values, W, dots, sums):
    for j in range(start, stop):
        w, sum_ = W[j], sums[j]
        sum_[:] = 0
        for e in range(offsets[j], offsets[j + 1]):
            x, v = g[rows[e]], values[order[e]]
            total = W.dtype.type(0)
            for d in range(len(w)):
                total += x[d] * w[d]
            for d in range(len(w)):
                sum_[d] += v * x[d]
            dots[order[e]] = total


@compiled
def _unit_rows(start, stop, W):
    for i in range(start, stop):
        row = W[i]
        total = W.dtype.type(0)
        for d in range(W.shape[1]):
            total += row[d] * row[d]
        scale = W.dtype.type(1 / max(np.sqrt(total), 1e-12))
        for d in range(W.shape[1]):
            row[d] *= scale


@compiled
def _count(start, stop, n_open, pre):
    for i in range(start, stop):
        count = 0
        for j in range(pre.shape[1]):
            count += pre[i, j] > 0
        n_open[i] = count


@compiled
def _fill(start, stop, offsets, latents, values, pre):
    for i in range(start, stop):
        e = offsets[i]
        for j in range(pre.shape[1]):
            if pre[i, j] > 0:
                latents[e] = j
                values[e] = pre[i, j]
                e += 1


@compiled
def _sort_by_latent(offsets, latents, order, rows, starts):
    """Sort by counting; `starts` comes in as zeros [d_sae + 1] and leaves as the new offsets."""
    for e in range(len(latents)):
        starts[latents[e] + 1] += 1
    for j in range(1, len(starts)):
        starts[j] += starts[j - 1]
    slots = starts.copy()
    for i in range(len(offsets) - 1):
        for e in range(offsets[i], offsets[i + 1]):
            slot = slots[latents[e]]
            slots[latents[e]] += 1
            order[slot] = e
            rows[slot] = i


def _run(loop: Callable[..., None], offsets: Tensor, *tensors: Tensor) -> None:
    """Run one of the products, `tensors` ending with W and what is written."""
    starts, *arrays = (as_numpy(t) for t in (offsets, *tensors))
    cost = starts + np.arange(len(starts))  # a row costs its entries and itself
    in_parts(loop, cost, int(cost[-1]) * tensors[-2].shape[-1], starts, *arrays)


def top_k(
    pre: Float[Tensor, "batch d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """See `builtin.top_k`."""
    values = torch.empty(len(pre), k, dtype=pre.dtype)
    latents = torch.empty(len(pre), k, dtype=torch.int64)
    arrays = [as_numpy(pre), values.numpy(), latents.numpy()]
    in_parts(largest_of_rows, even(len(pre)), pre.numel(), *arrays)
    return values, latents


def count_open(pre: Float[Tensor, "batch d_sae"]) -> Int[Tensor, " batch"]:
    """See `builtin.count_open`."""
    n_open = torch.empty(len(pre), dtype=torch.int64)
    in_parts(_count, even(len(pre)), pre.numel(), n_open.numpy(), as_numpy(pre))
    return n_open


def open_entries(
    pre: Float[Tensor, "batch d_sae"], n_open: Int[Tensor, " batch"], total: int
) -> SparseCodes:
    """See `builtin.open_entries`."""
    offsets = torch.zeros(len(pre) + 1, dtype=torch.int64)
    torch.cumsum(n_open, 0, out=offsets[1:])
    latents = torch.empty(total, dtype=torch.int64)
    values = torch.empty(len(latents), dtype=pre.dtype)
    arrays = [as_numpy(t) for t in (offsets, latents, values, pre)]
    in_parts(_fill, even(len(pre)), pre.numel(), *arrays)
    return SparseCodes(values=values, latents=latents, offsets=offsets, d_sae=pre.shape[1])


def transpose(codes: SparseCodes) -> Transpose:
    """Return `codes.transpose` by a counting sort, and leave it there."""
    if "transpose" not in codes._pattern:
        order, rows = torch.empty_like(codes.latents), torch.empty_like(codes.latents)
        offsets = torch.zeros(codes.d_sae + 1, dtype=torch.int64)
        arrays = [as_numpy(t) for t in (codes.offsets, codes.latents, order, rows, offsets)]
        _sort_by_latent(*arrays)
        codes._pattern["transpose"] = Transpose(order, rows, offsets)
    return codes.transpose


def gather_sum(
    codes: SparseCodes, values: Float[Tensor, " nnz"], W: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "batch d_in"]:
    """See `reference.gather_sum`."""
    out = torch.empty(codes.n_rows, W.shape[1], dtype=W.dtype)
    loop = lanes.sum_rows if lanes.applies(W) and values.dtype == W.dtype else _sum_rows
    _run(loop, codes.offsets, codes.latents, values, W, out)
    return out


def unit_rows_(W: Float[Tensor, "d_sae d_in"]) -> None:
    """Scale each row to norm 1, in place."""
    in_parts(_unit_rows, even(len(W)), W.numel(), W.detach().numpy())


def row_dots(
    codes: SparseCodes, W: Float[Tensor, "d_sae d_in"], g: Float[Tensor, "batch d_in"]
) -> Float[Tensor, " nnz"]:
    """See `reference.row_dots`. By latent: W, which may not fit the cache, is then read once."""
    order, rows, offsets = transpose(codes)
    out = torch.empty(len(order), dtype=W.dtype)
    _run(lanes.dots if lanes.applies(W, g) else _dots, offsets, rows, order, g, W, out)
    return out


def dots_and_outer(
    codes: SparseCodes,
    values: Float[Tensor, " nnz"],
    W: Float[Tensor, "d_sae d_in"],
    g: Float[Tensor, "batch d_in"],
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "d_sae d_in"]]:
    """Return `row_dots(codes, W, g)` and `scatter_outer(codes, values, g)`, reading g once."""
    order, rows, offsets = transpose(codes)
    dots, outer = torch.empty(len(values), dtype=W.dtype), torch.empty(W.shape, dtype=W.dtype)
    loop = lanes.dots_and_sums if lanes.applies(W, g) else _dots_and_sums
    _run(loop, offsets, rows, order, g, values, W, dots, outer)
    return dots, outer


def scatter_outer(
    codes: SparseCodes, values: Float[Tensor, " nnz"], x: Float[Tensor, "batch d_in"]
) -> Float[Tensor, "d_sae d_in"]:
    """See `reference.scatter_outer`."""
    by_latent = transpose(codes)
    out = torch.empty(codes.d_sae, x.shape[1], dtype=x.dtype)
    loop = lanes.sum_rows if lanes.applies(x) and values.dtype == x.dtype else _sum_rows
    _run(loop, by_latent.offsets, by_latent.rows, values[by_latent.order], x, out)
    return out
