"""The entries above zero, row by row: what threshold gates (ReLU, JumpReLU, GBA) open."""

import torch
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.sae.codes import SparseCodes
from gradsae.sae.kernels.triton.launch import jit, power_of_2, unit_columns

TILE = 4096
"""Most columns that a program reads at a time."""


def count_open(pre: Float[Tensor, "batch d_sae"]) -> Int[Tensor, " batch"]:
    """Return the number of entries above zero in each row. Never waits for the device."""
    pre = unit_columns(pre)
    n_open = torch.empty(len(pre), dtype=torch.int64, device=pre.device)
    d_sae, tile = pre.shape[1], min(TILE, power_of_2(pre.shape[1]))
    with torch.cuda.device_of(pre):
        _count_kernel[(len(pre),)](pre, n_open, pre.stride(0), d_sae, TILE=tile, num_warps=8)
    return n_open


def open_entries(
    pre: Float[Tensor, "batch d_sae"], n_open: Int[Tensor, " batch"], total: int
) -> SparseCodes:
    """See `builtin.open_entries`. How much memory the entries need is known on the device alone:
    reading `total` is the one wait that a threshold gate cannot avoid."""
    pre = unit_columns(pre)
    offsets = torch.zeros(len(pre) + 1, dtype=torch.int64, device=pre.device)
    torch.cumsum(n_open, 0, out=offsets[1:])
    latents = torch.empty(total, dtype=torch.int64, device=pre.device)
    values = torch.empty(total, dtype=pre.dtype, device=pre.device)
    d_sae, tile = pre.shape[1], min(TILE, power_of_2(pre.shape[1]))
    with torch.cuda.device_of(pre):
        _fill_kernel[(len(pre),)](
            pre, offsets, latents, values, pre.stride(0), d_sae, TILE=tile, num_warps=8
        )
    return SparseCodes(values=values, latents=latents, offsets=offsets, d_sae=d_sae)


@jit
def _count_kernel(pre, n_open, stride, d_sae, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    count = tl.zeros([TILE], tl.int32)
    start = 0
    while start < d_sae:
        column = start + tl.arange(0, TILE)
        value = tl.load((pre + row * stride) + column, mask=column < d_sae, other=0)
        count += (value.to(tl.float32) > 0).to(tl.int32)
        start += TILE
    tl.store(n_open + row, tl.sum(count, 0).to(tl.int64))


@jit
def _fill_kernel(pre, offsets, latents, values, stride, d_sae, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(offsets + row)
    start = 0
    while start < d_sae:
        column = start + tl.arange(0, TILE)
        value = tl.load((pre + row * stride) + column, mask=column < d_sae, other=0)
        is_open = value.to(tl.float32) > 0
        rank = tl.cumsum(is_open.to(tl.int32), 0) - 1
        tl.store((values + slot) + rank, value, mask=is_open)
        tl.store((latents + slot) + rank, column.to(tl.int64), mask=is_open)
        slot += tl.sum(is_open.to(tl.int32), 0)
        start += TILE
