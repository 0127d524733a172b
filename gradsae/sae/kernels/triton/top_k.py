# What a kernel computes with has no Python types.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportAssignmentType=false
"""The k largest of each row without a sort: bisect for the k-th largest value, then compact.

A float's bits, read as an integer (and flipped below zero), are ordered as the float is. So the
k-th largest is found exactly in at most 16 (bf16) or 32 (fp32) counts over a tile that stays in
registers. A row longer than one tile is cut: the k largest of the parts' k largest are the row's.
"""

import torch
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.sae.kernels.triton.launch import jit, power_of_2

TILE = 8192
"""Longest row, or part of a row, that one program holds in registers (16 warps, 16 a thread: twice
as many spill, says the compiler for sm_90)."""

WORD = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def top_k(
    pre: Float[Tensor, "batch d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Return the k largest of each row and their latents, in the order of the latents.

    Of tied values at the edge any may be taken; exactly k are. Never waits for the device.
    """
    d_sae = pre.shape[1]
    if d_sae > TILE and k > TILE // 4:  # parts would hardly be shorter than the row
        top = pre.topk(k, dim=1, sorted=False)
        return top.values, top.indices
    bits, latents = pre.contiguous().view(WORD[pre.dtype]), None
    while True:
        n_parts = -(-bits.shape[1] // TILE)
        bits, slots = _select(bits, n_parts, k)
        latents = slots if latents is None else latents.gather(1, slots)
        if n_parts == 1:
            return bits.view(pre.dtype), latents


def _select(
    bits: Int[Tensor, "batch n"], n_parts: int, k: int
) -> tuple[Int[Tensor, "batch parts_k"], Int[Tensor, "batch parts_k"]]:
    """Return the k largest of each of `n_parts` like parts of each row, and their columns."""
    batch, n = bits.shape
    out = bits.new_empty(batch, n_parts * k)
    slots = torch.empty(batch, n_parts * k, dtype=torch.int64, device=bits.device)
    tile = power_of_2(-(-n // n_parts))
    with torch.cuda.device_of(bits):
        _select_kernel[(batch, n_parts)](
            bits, out, slots, n, n_parts, k, TILE=tile, num_warps=max(1, min(16, tile // 512))
        )
    return out, slots


@jit
def _select_kernel(bits, out, slots, n, n_parts, k, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    start = part * n // n_parts
    column = start + tl.arange(0, TILE)
    inside = column < (part + 1) * n // n_parts
    word = tl.load((bits + row * n) + column, mask=inside, other=0)
    key = word.to(tl.int32)
    # Below zero a larger pattern is a smaller number: flip all bits but the sign.
    largest: tl.constexpr = 0x7FFFFFFF if bits.dtype.element_ty == tl.int32 else 0x7FFF
    key = tl.where(key < 0, key ^ largest, key)

    # low: at least k keys reach it. high: fewer than k keys lie above it.
    low = tl.min(tl.where(inside, key, 0x7FFFFFFF), 0)
    high = tl.max(tl.where(inside, key, -0x7FFFFFFF - 1), 0)
    while low < high:
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)  # rounded up; cannot overflow
        reach = tl.sum((inside & (key >= middle)).to(tl.int32), 0)
        low = tl.where(reach >= k, middle, low)
        high = tl.where(reach > k, high, tl.where(reach == k, middle, middle - 1))

    above = inside & (key > low)
    tied = inside & (key == low)
    n_tied = k - tl.sum(above.to(tl.int32), 0)
    is_chosen = above | (tied & (tl.cumsum(tied.to(tl.int32), 0) <= n_tied))
    first = (row * n_parts + part) * k
    slot = tl.cumsum(is_chosen.to(tl.int32), 0) - 1
    tl.store((out + first) + slot, word, mask=is_chosen)
    tl.store((slots + first) + slot, column.to(tl.int64), mask=is_chosen)
