"""Selection on CPUs without bfloat16: screen in 16-bit integers, verify in float32. To the bit.

AVX2 multiplies 16-bit integers twice as fast as float32. Rows of x and W are scaled to norm NORM
and rounded, so a product in integers is near that in float32, by a bound that is known. What could
be among the k largest (or above zero) is then multiplied in float32, in the order in which torch's
own product adds: blocks of columns, each summed up column by column, added to the bias one after
the other. So the outcome has the bits of that product. The order is not documented; it is compared
once for each shape (`_block`), and where none fits, nothing is screened.

Error of a product of rows x and w, rounded to x + dx and w + dw:
    |dx||w| + |x||dw| + |dx||dw|      rounded operands (Cauchy-Schwarz, with actual |dx| and |dw|)
    (d_in + 16) 2^-24 (|x||w| + |b|)  float32 sums of the product and of this bound
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from llvmlite.binding import get_host_cpu_features
from torch import Tensor

from gradsae.sae.codes import SparseCodes
from gradsae.sae.kernels import screen
from gradsae.sae.kernels.lanes import WORDS, chained, integer_products
from gradsae.sae.kernels.loops import as_numpy, compiled, even, in_parts
from gradsae.sae.kernels.top import LANES, blank, level_below, positions

MIN_MULTIPLY_ADDS = 1 << 29
"""Size of a product under which rounding and screening cost what they save."""
MIN_ROWS = 512
"""Rows under which a shape is not worth finding out the order of torch's sums for."""
NORM = np.float32(32000)
"""Of a row of integers: none of them, and no product of two rows, overflows its 16 or 32 bits."""
ROWS = 128
"""Rows whose products are held at once."""
PANEL = 128
"""Rows of W that stay in the second-level cache meanwhile."""
SAFETY = np.float32(1.01)
SAMPLE = 24
"""Rows, and latents, whose products are compared to find the order of torch's sums."""
OPEN = np.finfo(np.float32).tiny
"""The least number above zero that is asked for."""


@cache
def _hardware() -> bool:
    return bool(get_host_cpu_features().get("avx2", False))


def applies(x: Float[Tensor, "batch d_in"], W: Float[Tensor, "d_sae d_in"]) -> bool:
    """Return True where screening is faster than the float32 product, and has its bits."""
    return (
        x.device.type == "cpu"
        and x.dtype == W.dtype == torch.float32
        and x.is_contiguous()
        and W.is_contiguous()
        and len(x) >= MIN_ROWS
        and len(x) * W.numel() >= MIN_MULTIPLY_ADDS
        and W.shape[1] % WORDS == 0
        and _hardware()
        and _block(len(x), *W.shape, torch.get_num_threads()) > 0
    )


@cache
def _block(n_rows: int, d_sae: int, d_in: int, n_threads: int) -> int:
    """Return how many columns torch's product of this shape adds up at a time; 0 if none fits.

    Where they fit, random numbers come out the same in every bit.
    """
    generator = torch.Generator().manual_seed(0)
    x, W = (torch.randn(n, d_in, generator=generator) for n in (n_rows, d_sae))
    b = torch.randn(d_sae, generator=generator)
    rows, latents = (torch.linspace(0, n - 1, SAMPLE).long() for n in (n_rows, d_sae))
    expected = torch.addmm(b, x, W.mT)[rows][:, latents].numpy()
    offsets = np.arange(SAMPLE + 1) * SAMPLE
    index, got = np.tile(latents.numpy(), SAMPLE), np.empty(SAMPLE**2, np.float32)
    for block in (192, -(-d_in // 2), 256, 384, 320, d_in):
        arrays = (offsets, index, x[rows].numpy(), W.numpy(), b.numpy(), block, got)
        _verify(0, SAMPLE, *arrays)
        if np.array_equal(got, expected.ravel()):
            return block
    return 0


@compiled
def _round_rows(start, stop, plain, words, scale, norm, error):
    """Round rows to integers of norm NORM; scale[i] is what one of them is worth."""
    for i in range(start, stop):
        total = np.float32(0)
        for j in range(plain.shape[1]):
            total += plain[i, j] * plain[i, j]
        norm[i] = np.sqrt(total)
        up = NORM / norm[i] if norm[i] > 0 else np.float32(0)
        scale[i] = norm[i] / NORM
        lost = np.float32(0)
        for j in range(plain.shape[1]):
            word = np.rint(plain[i, j] * up)
            words[i, j] = np.int32(word)
            lost += (plain[i, j] - word * scale[i]) * (plain[i, j] - word * scale[i])
        error[i] = np.sqrt(lost)


def _rounded(matrix: Float[Tensor, "rows d_in"]) -> tuple[np.ndarray, ...]:
    """Return integers [rows + 4, d_in], and scale, norm and rounding error of each row."""
    plain = as_numpy(matrix)
    words = torch.zeros(len(plain) + 4, plain.shape[1], dtype=torch.int16).numpy()
    scale, norm, error = np.empty((3, len(plain)), np.float32)
    in_parts(_round_rows, even(len(plain)), 2 * plain.size, plain, words, scale, norm, error)
    return words, scale, norm, error


@compiled
def _find(start, stop, x, W, bounds, k, places, n_found):
    """Write which latents of each row may be among the k largest, or above zero where k is 0."""
    x_words, x_scale, reach = x
    W_words, W_scale = W
    bias, norm, slack = bounds
    n = len(bias)
    products = np.empty((ROWS + 4, n + 4), np.int32)
    low, mask = np.empty(n, np.float32), blank(n)
    words, lanes = mask.view(np.uint64), np.empty(max(1, LANES * k), np.float32)
    for first in range(start, stop, ROWS):
        last = min(first + ROWS, stop)
        for panel in range(0, n, PANEL):
            for i in range(first, last, 4):
                for j in range(panel, min(panel + PANEL, n), 2):
                    integer_products(x_words, W_words, products, i, j, i - first)
        for i in range(first, last):
            row = products[i - first]
            for j in range(n):
                middle = np.float32(row[j]) * (x_scale[i] * W_scale[j]) + bias[j]
                low[j] = middle - (reach[i] * norm[j] + slack[j])
            level = level_below(low, n, k, lanes) if k > 0 else OPEN
            for j in range(n):
                mask[j] = low[j] + np.float32(2) * (reach[i] * norm[j] + slack[j]) >= level
            n_found[i] = positions(mask, words, places[i])


@compiled
def _verify(start, stop, offsets, latents, x, W, b, block, out):
    for i in range(start, stop):
        for first in range(offsets[i], offsets[i + 1], 8):
            chained(first, offsets[i + 1], i, latents, x, W, b, block, out)


class _Search(NamedTuple):
    """What `_find` reads: rounded rows of x and W, and what bounds the error of their products."""

    x_words: np.ndarray
    x_scale: np.ndarray
    reach: np.ndarray
    """For each row of x: error per unit of norm of a row of W."""
    W_words: np.ndarray
    W_scale: np.ndarray
    bias: np.ndarray
    norm: np.ndarray
    slack: np.ndarray
    """Error that comes with the bias."""

    def run(self, rows: slice, k: int, places: np.ndarray, n_found: np.ndarray) -> None:
        x = (self.x_words[rows.start :], self.x_scale[rows], self.reach[rows])
        bounds = (self.bias, self.norm, self.slack)
        arrays = (x, (self.W_words, self.W_scale), bounds, k, places[rows], n_found[rows])
        n = len(self.x_scale[rows])
        in_parts(_find, even(n), n * self.W_words.size, *arrays)


def _search(x: Tensor, W: Tensor, b: Tensor) -> _Search | None:
    """Return rounded rows; None where not all numbers are finite."""
    x_words, x_scale, x_norm, x_error = _rounded(x)
    W_words, W_scale, norm, W_error = _rounded(W)
    bias, epsilon = as_numpy(b), np.float32((W.shape[1] + 16) * 2**-24)
    worst = (W_error / np.maximum(norm, OPEN)).max()
    reach = SAFETY * (x_error * (1 + worst) + x_norm * (worst + epsilon))
    if not (np.isfinite(reach).all() and np.isfinite(bias).all()):
        return None
    slack = epsilon * np.abs(bias)
    return _Search(x_words, x_scale, reach, W_words, W_scale, bias, norm, slack)


def _candidates(
    x: Tensor, W: Tensor, b: Tensor, k: int, room: int, most: int
) -> SparseCodes | None:
    """Return the pre-activations that may be among the k largest, or above zero where k is 0.

    None if a row has more than `room` of them, or all rows together more than `most`, going by the
    first rows too; and where not all numbers are finite.
    """
    search = _search(x, W, b)
    if search is None:
        return None
    places, n_found = np.empty((len(x), room), np.int32), np.zeros(len(x), np.int64)
    for rows in (slice(0, ROWS), slice(ROWS, len(x))):
        search.run(rows, k, places, n_found)
        if n_found.max() > room or n_found.sum() > most / len(x) * rows.stop:
            return None
    codes = screen.joined(places, n_found, len(W), most)
    if codes is None:
        return None
    block = _block(len(x), *W.shape, torch.get_num_threads())
    offsets, latents, out = (as_numpy(t) for t in (codes.offsets, codes.latents, codes.values))
    arrays = (offsets, latents, as_numpy(x), as_numpy(W), search.bias, block, out)
    in_parts(_verify, offsets, len(latents) * W.shape[1], *arrays)
    return codes


def top_k(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_sae d_in"],
    b: Float[Tensor, " d_sae"],
    k: int,
) -> SparseCodes | None:
    """Return the k largest of x W' + b on each row; None where near ties are too many to verify."""
    room = min(len(W), screen.MOST * k + 64)
    return screen.largest(_candidates(x, W, b, k, room, room * len(x)), k)


def above_zero(
    x: Float[Tensor, "batch d_in"],
    W: Float[Tensor, "d_sae d_in"],
    b: Float[Tensor, " d_sae"],
    most: int,
) -> SparseCodes | None:
    """Return the entries of x W' + b above zero; None if they are more than `most`."""
    room = min(len(W), 4 * most // len(x) + 64)  # of one row
    return screen.above(_candidates(x, W, b, 0, room, most + most // 4), most)
