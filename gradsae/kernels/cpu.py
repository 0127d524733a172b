"""The three products compiled with numba, for float32 and float64 on the CPU.

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

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.codes import SparseCodes

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


@lru_cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="gradsae-kernel")


def _run(loop: Callable[..., None], offsets: Tensor, *tensors: Tensor) -> None:
    """Run a loop over all rows: here, or in parts with as many entries each on several threads."""
    arrays: list[np.ndarray] = [t.detach().contiguous().numpy() for t in (offsets, *tensors)]
    n_rows, n_threads = len(offsets) - 1, torch.get_num_threads()
    width = arrays[-2].shape[1]
    if n_threads == 1 or (len(arrays[1]) + n_rows) * width < SERIAL_BELOW:
        loop(0, n_rows, *arrays)
        return
    n_parts = 4 * n_threads
    work = arrays[0] + np.arange(n_rows + 1)  # a row costs its entries and itself
    cuts = np.searchsorted(work, np.linspace(0, work[-1], n_parts + 1))
    cuts[0], cuts[-1] = 0, n_rows
    parts = [
        _pool(n_threads).submit(loop, int(a), int(b), *arrays)
        for a, b in pairwise(cuts)
    ]
    for part in parts:
        part.result()


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
    by_latent = codes.transpose
    out = torch.empty(codes.d_sae, x.shape[1], dtype=x.dtype)
    _run(_sum_rows, by_latent.offsets, by_latent.rows, values[by_latent.order], x, out)
    return out
