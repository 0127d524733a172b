"""Rows to norm 1 in one pass over the matrix."""

import torch
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float
from torch import Tensor

from gradsae.sae.kernels.triton.launch import jit, power_of_2

WIDTH = 1024
"""Most columns that a program reads at a time; it reads them again, from cache, to scale them."""


def unit_rows_(W: Float[Tensor, "rows d_in"]) -> None:
    """See `builtin.unit_rows_`. The norm is taken in fp32."""
    width = min(WIDTH, power_of_2(W.shape[1]))
    with torch.cuda.device_of(W):
        _unit_kernel[(len(W),)](W, *W.stride(), d_in=W.shape[1], WIDTH=width)


@jit
def _unit_kernel(W, stride, step, d_in: tl.constexpr, WIDTH: tl.constexpr):
    row = W + tl.program_id(0).to(tl.int64) * stride
    square = tl.zeros([WIDTH], tl.float32)
    for first in range(0, d_in, WIDTH):
        column = first + tl.arange(0, WIDTH)
        value = tl.load(row + column * step, mask=column < d_in, other=0).to(tl.float32)
        square += value * value
    norm = tl.maximum(tl.sqrt(tl.sum(square, 0)), 1e-12)
    for first in range(0, d_in, WIDTH):
        column = first + tl.arange(0, WIDTH)
        value = tl.load(row + column * step, mask=column < d_in, other=0).to(tl.float32)
        tl.store(row + column * step, value / norm, mask=column < d_in)
