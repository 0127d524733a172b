"""Which pre-activations W x + b a gate needs: the k largest of each row, or those above zero.

The full matrix of pre-activations never outlives the call; what is returned is its open entries.
W and b are rounded to the dtype of x for the product; the entries come back in the dtype of W.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.sae.codes import Codes, DenseCodes, SparseCodes, from_rows
from gradsae.sae.kernels.backend import backend, screen

DENSE_ABOVE = 0.05
"""Share of open latents above which matrix products beat gathers (see benchmarks/speed)."""
SAMPLE_ROWS = 64
"""Least number of rows from which `top_of_batch` guesses a level."""
MARGIN = 1.5
"""Entries that the guessed level should let through, for each that is wanted."""


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


def top_of_batch(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_sae d_in"],
    b: Float[Tensor, " d_sae"],
    n: int,
) -> Codes:
    """Return the n largest positive pre-activations of all rows together; of equal ones, any.

    A level guessed from some rows lets through a few more than wanted. Where it lets through too
    few, half of it is tried, then zero: the answer is exact whatever the guess.
    """
    level = _guess_level(x, W, b, n)
    for bound in (level, level / 2):
        if bound <= 0:
            break
        above = above_zero(x, W, b - bound)
        candidates = above.with_values(above.values + bound)
        n_above = (above.values > 0).sum() if isinstance(above, DenseCodes) else len(above.values)
        if n_above >= n:
            return _largest(candidates, n)
    return _largest(above_zero(x, W, b), n)


def _guess_level(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_sae d_in"],
    b: Float[Tensor, " d_sae"],
    n: int,
) -> float:
    """Return what about MARGIN * n pre-activations of a batch reach, going by some rows."""
    stride = max(1, len(x) // max(SAMPLE_ROWS, len(x) // 16))
    some = _product(x[::stride], W, b).flatten()
    n_wanted = int(MARGIN * n * some.numel() / (len(x) * len(W))) + 1
    if n_wanted >= some.numel():
        return 0.0
    rank = some.numel() - n_wanted
    if some.device.type == "cpu":  # numpy takes a tenth of the time
        return float(np.partition(some.detach().float().numpy(), rank)[rank])
    return some.float().kthvalue(rank + 1).values.item()


def _largest(pre: Codes, n: int) -> Codes:
    """Return the n largest positive entries; as a matrix with zeros elsewhere if they are many."""
    flat = pre.values.reshape(-1)
    keep = torch.zeros_like(flat, dtype=torch.bool)
    keep[flat.topk(min(n, len(flat)), sorted=False).indices] = True
    keep &= flat > 0
    if isinstance(pre, SparseCodes):
        return pre.only(keep)
    chosen = torch.where(keep, flat, 0.0).view(pre.values.shape)
    if n > DENSE_ABOVE * len(flat):
        return DenseCodes(values=chosen)
    run = backend(chosen)
    n_open = run.count_open(chosen)
    return run.open_entries(chosen, n_open, int(n_open.sum()))
