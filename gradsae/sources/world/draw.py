"""Draws of a world: codes of the features that fire, exact in distribution.

`reference.py` is the same law written plainly, with every feature drawn on every row.
"""

from typing import Any, NamedTuple, final

import numpy as np
import torch

from gradsae.sae.codes import SparseCodes
from gradsae.sae.kernels.loops import as_numpy, even, in_parts
from gradsae.sources.common import row_offsets
from gradsae.sources.world.loops import BLOCK, SURE, TILE, draw_rows, pack
from gradsae.sources.world.parts import World, conditional_law, positive_share

START_CAPACITY = 128
"""Entries that a row may have at first. A draw that needs more is made again with twice as many,
which changes no row, and later draws begin there."""

NEVER = -4 * SURE
"""Offset of a feature with probability 0; beyond the reach of any shared factor."""

WORK_PER_BLOCK = 1 << 18
"""About what a block of rows costs, in multiply-adds."""


class Children(NamedTuple):
    """Children in compressed form: those of i are starts[i] to starts[i + 1], by group.

    Exclusive features without a parent are children of an extra feature that always fires.
    """

    starts: np.ndarray
    children: np.ndarray
    groups: np.ndarray
    scaled: np.ndarray


class Laws(NamedTuple):
    """One entry a feature: active with probability Phi(offset + gain f)."""

    gains: np.ndarray
    offsets: np.ndarray
    means: np.ndarray
    spreads: np.ndarray
    positive: np.ndarray
    """Probability that a draw of the magnitude is above 0."""


@final
class Plan:
    """The arrays that the loops read, laid out once a world."""

    def __init__(self, world: World) -> None:
        gains, offsets = (tensor.numpy() for tensor in conditional_law(world))
        self.n_features = len(offsets)
        self._capacity = min(START_CAPACITY, self.n_features)
        self.laws = Laws(
            gains.astype(np.float32),
            np.clip(offsets, NEVER, -NEVER),
            as_numpy(world.means.double()),
            as_numpy(world.spreads.double()),
            as_numpy(positive_share(world)),
        )
        parent, group = as_numpy(world.trees.parent), as_numpy(world.trees.group)
        self.free = np.flatnonzero((parent < 0) & (group < 0))
        self.children = _children(parent, group, as_numpy(world.trees.scaled))
        n_tiles = -(-len(self.free) // TILE)
        flat = np.zeros((n_tiles * TILE, world.factor.shape[1] + 1), np.float32)
        flat[:, -1] = NEVER
        flat[: len(self.free), :-1] = self.laws.gains[self.free]
        flat[: len(self.free), -1] = self.laws.offsets[self.free]
        tiles = flat.reshape(n_tiles, TILE, -1).transpose(0, 2, 1)
        self.tiles = np.ascontiguousarray(tiles)

    def draw(self, n: int, generator: torch.Generator) -> SparseCodes:
        """Return the codes of `n` rows; `generator` gives one number, which seeds all rows."""
        seed = np.uint64(int(torch.randint(1 << 62, (1,), generator=generator)))
        while True:
            latents = np.empty((n, self._capacity), np.int64)
            values = np.empty((n, self._capacity), np.float32)
            n_open = np.empty(n, np.int64)
            fixed: tuple[Any, ...] = (self.free, self.tiles, tuple(self.children), tuple(self.laws))
            n_blocks = -(-n // BLOCK)
            work = n_blocks * WORK_PER_BLOCK
            in_parts(draw_rows, even(n_blocks), work, seed, *fixed, latents, values, n_open)
            if n == 0 or n_open.min() >= 0:
                return self._packed(latents, values, n_open)
            self._capacity = min(2 * self._capacity, self.n_features)

    def _packed(self, latents: np.ndarray, values: np.ndarray, n_open: np.ndarray) -> SparseCodes:
        offsets = row_offsets(torch.from_numpy(n_open))
        flat_latents = torch.empty(int(offsets[-1]), dtype=torch.int64)
        flat_values = torch.empty(len(flat_latents))
        arrays = (offsets, flat_latents, flat_values)
        starts, *flat = (tensor.numpy() for tensor in arrays)
        in_parts(pack, even(len(n_open)), len(flat_latents), starts, latents, values, *flat)
        return SparseCodes(
            values=flat_values, latents=flat_latents, offsets=offsets, d_sae=self.n_features
        )


def _children(parent: np.ndarray, group: np.ndarray, scaled: np.ndarray) -> Children:
    n = len(parent)
    above = np.where((parent < 0) & (group >= 0), n, parent)
    children = np.flatnonzero(above >= 0)
    children = children[np.lexsort((children, group[children], above[children]))]
    starts = np.searchsorted(above[children], np.arange(n + 2))
    return Children(starts, children, group[children], scaled[children])
