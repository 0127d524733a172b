"""The three products and threshold selection compiled with numba, for float32 and float64.

Rows (or latents) are shared out over Python threads that run compiled loops without the
interpreter's lock. Each is summed in storage order by one thread, so results do not depend on the
number of threads. (numba's own parallel loops bring a second OpenMP pool, and two pools that wait
in a spin take each other's cores: see results/LOG.md.)
"""

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.codes import SparseCodes, Transpose

SERIAL_BELOW = 1 << 21
"""Multiply-adds under which one thread is faster than waking others (about 0.5 ms)."""


def _compiled(loop: Callable[..., None]) -> Callable[..., None]:
    """Compile at first use, kept on disk. `unwrap` takes off the shape checks that tests put on."""
    return numba.njit(fastmath=True, cache=True, nogil=True)(inspect.unwrap(loop))


@_compiled
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


@_compiled
def _dots(start, stop, offsets, index, g, W, out):
    for i in range(start, stop):
        row = g[i]
        for e in range(offsets[i], offsets[i + 1]):
            w = W[index[e]]
            total = row[0] * 0
            for d in range(W.shape[1]):
                total += row[d] * w[d]
            out[e] = total


@_compiled
def _count(start, stop, n_open, pre):
    for i in range(start, stop):
        count = 0
        for j in range(pre.shape[1]):
            count += pre[i, j] > 0
        n_open[i] = count


@_compiled
def _fill(start, stop, offsets, latents, values, pre):
    for i in range(start, stop):
        e = offsets[i]
        for j in range(pre.shape[1]):
            if pre[i, j] > 0:
                latents[e] = j
                values[e] = pre[i, j]
                e += 1


@_compiled
def _sort_by_latent(offsets, latents, order, rows, starts):
    """Counting sort; `starts` comes in as zeros [d_sae + 1] and leaves as the new offsets."""
    for e in range(len(latents)):
        starts[latents[e] + 1] += 1
    for j in range(1, len(starts)):
        starts[j] += starts[j - 1]
    at = starts.copy()
    for i in range(len(offsets) - 1):
        for e in range(offsets[i], offsets[i + 1]):
            slot = at[latents[e]]
            at[latents[e]] += 1
            order[slot] = e
            rows[slot] = i


@lru_cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="gradsae-kernel")


def _in_parts(loop: Callable[..., None], cost: np.ndarray, total: int, *arrays: Any) -> None:
    """Run a loop over all rows: here, or on several threads in parts of like cost.

    `cost` is cumulative over rows, from 0; `total` counts multiply-adds.
    """
    n_rows, n_threads = len(cost) - 1, torch.get_num_threads()
    if n_threads == 1 or total < SERIAL_BELOW:
        loop(0, n_rows, *arrays)
        return
    cuts = np.searchsorted(cost, np.linspace(0, cost[-1], 4 * n_threads + 1))
    cuts[0], cuts[-1] = 0, n_rows
    pool = _pool(n_threads)
    parts = [pool.submit(loop, int(a), int(b), *arrays) for a, b in pairwise(cuts)]
    for part in parts:
        part.result()


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _run(loop: Callable[..., None], offsets: Tensor, *tensors: Tensor) -> None:
    """Run one of the three products, `tensors` ending with W and the output."""
    starts, *arrays = (_numpy(t) for t in (offsets, *tensors))
    cost = starts + np.arange(len(starts))  # a row costs its entries and itself
    _in_parts(loop, cost, int(cost[-1]) * arrays[-2].shape[1], starts, *arrays)


def count_open(pre: Float[Tensor, "batch d_sae"]) -> Int[Tensor, " batch"]:
    """See `builtin.count_open`."""
    n_open = torch.empty(len(pre), dtype=torch.int64)
    _in_parts(_count, np.arange(len(pre) + 1), pre.numel(), n_open.numpy(), _numpy(pre))
    return n_open


def open_entries(pre: Float[Tensor, "batch d_sae"], n_open: Int[Tensor, " batch"]) -> SparseCodes:
    """See `builtin.open_entries`."""
    offsets = torch.zeros(len(pre) + 1, dtype=torch.int64)
    torch.cumsum(n_open, 0, out=offsets[1:])
    latents = torch.empty(int(offsets[-1]), dtype=torch.int64)
    values = torch.empty(len(latents), dtype=pre.dtype)
    arrays = [_numpy(t) for t in (offsets, latents, values, pre)]
    _in_parts(_fill, np.arange(len(pre) + 1), pre.numel(), *arrays)
    return SparseCodes(values=values, latents=latents, offsets=offsets, d_sae=pre.shape[1])


def transpose(codes: SparseCodes) -> Transpose:
    """Return `codes.transpose` by a counting sort, and leave it there."""
    if "transpose" not in codes._pattern:
        order, rows = torch.empty_like(codes.latents), torch.empty_like(codes.latents)
        offsets = torch.zeros(codes.d_sae + 1, dtype=torch.int64)
        arrays = [_numpy(t) for t in (codes.offsets, codes.latents, order, rows, offsets)]
        _sort_by_latent(*arrays)
        codes._pattern["transpose"] = Transpose(order, rows, offsets)
    return codes.transpose


def gather_sum(
    codes: SparseCodes, values: Float[Tensor, " nnz"], W: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "batch d_in"]:
    """See `reference.gather_sum`."""
    out = torch.empty(codes.n_rows, W.shape[1], dtype=W.dtype)
    _run(_sum_rows, codes.offsets, codes.latents, values, W, out)
    return out


def row_dots(
    codes: SparseCodes, W: Float[Tensor, "d_sae d_in"], g: Float[Tensor, "batch d_in"]
) -> Float[Tensor, " nnz"]:
    """See `reference.row_dots`."""
    out = torch.empty(len(codes.latents), dtype=W.dtype)
    _run(_dots, codes.offsets, codes.latents, g, W, out)
    return out


def scatter_outer(
    codes: SparseCodes, values: Float[Tensor, " nnz"], x: Float[Tensor, "batch d_in"]
) -> Float[Tensor, "d_sae d_in"]:
    """See `reference.scatter_outer`."""
    by_latent = transpose(codes)
    out = torch.empty(codes.d_sae, x.shape[1], dtype=x.dtype)
    _run(_sum_rows, by_latent.offsets, by_latent.rows, values[by_latent.order], x, out)
    return out
