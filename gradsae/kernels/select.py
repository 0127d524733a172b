"""Which pre-activations W x + b a gate needs: the k largest of each row, or those above zero.

The full matrix of pre-activations never outlives the call; what is returned is its open entries.
W and b are rounded to the dtype of x for the product; the entries come back in the dtype of W.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.codes import Codes, DenseCodes, SparseCodes, from_rows
from gradsae.kernels.backend import backend, screen

DENSE_ABOVE = 0.05
"""Share of open latents above which matrix products beat gathers (see benchmarks/speed)."""


def top_k(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_sae d_in"],
    b: Float[Tensor, " d_sae"],
    k: int,
) -> SparseCodes:
    """Return the k largest pre-activations of each row; of equal ones, any."""
    run = screen(x, W)
    codes = run.top_k(x, W, b, k) if run and k <= DENSE_ABOVE * len(W) else None
    if codes is not None:
        return codes
    pre = _product(x, W, b)
    values, latents = backend(pre).top_k(pre, k)
    return from_rows(values.to(W.dtype), latents, len(W))


def above_zero(
    x: Float[Tensor, "batch d_in"], W: Float[Tensor, "d_sae d_in"], b: Float[Tensor, " d_sae"]
) -> Codes:
    """Return the pre-activations above zero; all of them, as a matrix, where too many are."""
    most = int(DENSE_ABOVE * len(x) * len(W))
    run = screen(x, W)
    codes = run.above_zero(x, W, b, most) if run else None
    if codes is not None:
        return codes
    pre = _product(x, W, b)
    n_open = backend(pre).count_open(pre)
    total = int(n_open.sum())  # the one number for which a GPU's host waits
    if total > most:
        return DenseCodes(values=pre.to(W.dtype))
    codes = backend(pre).open_entries(pre, n_open, total)
    return codes.with_values(codes.values.to(W.dtype))


def _product(
    x: Float[Tensor, "batch d_in"], W: Float[Tensor, "d_sae d_in"], b: Float[Tensor, " d_sae"]
) -> Float[Tensor, "batch d_sae"]:
    return torch.addmm(b.to(x.dtype), x, W.to(x.dtype).mT)
