"""The three products compiled with numba, for contiguous float32 and float64 on the CPU.

Rows (or latents) are shared out over threads and each is summed in storage order by one thread,
so results do not depend on the number of threads.
"""

import inspect

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.codes import SparseCodes


def _compiled(loop):
    """Compile at first use, kept on disk. `unwrap` takes off the shape checks that tests put on."""
    return numba.njit(parallel=True, fastmath=True, cache=True, nogil=True)(inspect.unwrap(loop))


@_compiled
def _sum_rows(values, index, offsets, W, out):
    for i in numba.prange(len(offsets) - 1):
        row = out[i]
        row[:] = 0
        for e in range(offsets[i], offsets[i + 1]):
            v = values[e]
            if v != 0:
                w = W[index[e]]
                for d in range(W.shape[1]):
                    row[d] += v * w[d]


@_compiled
def _dots(latents, offsets, W, g, out):
    for i in numba.prange(len(offsets) - 1):
        row = g[i]
        for e in range(offsets[i], offsets[i + 1]):
            w = W[latents[e]]
            total = row[0] * 0
            for d in range(W.shape[1]):
                total += row[d] * w[d]
            out[e] = total


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _use_torch_threads() -> None:
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))


def gather_sum(
    codes: SparseCodes, values: Float[Tensor, " nnz"], W: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "batch d_in"]:
    """See `reference.gather_sum`."""
    _use_torch_threads()
    out = torch.empty(codes.n_rows, W.shape[1], dtype=W.dtype)
    _sum_rows(_numpy(values), _numpy(codes.latents), _numpy(codes.offsets), _numpy(W), out.numpy())
    return out


def row_dots(
    codes: SparseCodes, W: Float[Tensor, "d_sae d_in"], g: Float[Tensor, "batch d_in"]
) -> Float[Tensor, " nnz"]:
    """See `reference.row_dots`."""
    _use_torch_threads()
    out = torch.empty(len(codes.latents), dtype=W.dtype)
    _dots(_numpy(codes.latents), _numpy(codes.offsets), _numpy(W), _numpy(g), out.numpy())
    return out


def scatter_outer(
    codes: SparseCodes, values: Float[Tensor, " nnz"], x: Float[Tensor, "batch d_in"]
) -> Float[Tensor, "d_sae d_in"]:
    """See `reference.scatter_outer`."""
    _use_torch_threads()
    by_latent = codes.transpose
    out = torch.empty(codes.d_sae, x.shape[1], dtype=x.dtype)
    _sum_rows(
        _numpy(values[by_latent.order]),
        _numpy(by_latent.rows),
        _numpy(by_latent.offsets),
        _numpy(x),
        out.numpy(),
    )
    return out
