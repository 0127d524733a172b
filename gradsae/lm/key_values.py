"""Keys and values that a pass leaves in the blocks.

With them a rerun begins in the middle of a prompt, and writing goes on after its end.
"""

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

Pair = tuple[Float[Tensor, "_rows _heads _pos _d_key"], Float[Tensor, "_rows _heads _pos _d_value"]]
"""Keys and values of one block. Blocks may differ in rows and positions."""


@final
@dataclass(frozen=True, kw_only=True)
class KeyValues:
    """Keys and values that one pass left in the blocks from a certain one on."""

    n_before: int
    """Number of blocks before the first one that has keys and values. A pass that uses these never
    runs attention there."""
    blocks: list[Pair]
    """Keys and values of each block from there on."""

    def cache(self, start: int, n_rows: int) -> Any:
        """Return a transformers cache that holds the positions before `start`.

        The same keys and values serve each of `n_rows` rows if they have one row.
        """
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(self.n_before):  # transformers only asks for the length of these
            filler = self.blocks[0][0].new_empty(1, 1, start, 1)
            cache.update(filler, filler, layer)
        for layer, pair in enumerate(self.blocks, self.n_before):
            keys, values = (x[:, :, :start].expand(n_rows, -1, -1, -1) for x in pair)
            cache.update(keys, values, layer)
        return cache

    def at(self, position: int) -> "KeyValues":
        """Return the keys and values of one position."""
        here = slice(position, position + 1)
        blocks = [(keys[:, :, here], values[:, :, here]) for keys, values in self.blocks]
        return KeyValues(n_before=self.n_before, blocks=blocks)

    def prepend(self, earlier: "KeyValues") -> "KeyValues":
        """Add the blocks before these, taken from `earlier`."""
        n_missing = self.n_before - earlier.n_before
        return KeyValues(n_before=earlier.n_before, blocks=earlier.blocks[:n_missing] + self.blocks)


def read_cache(cache: Any, n_before: int, n_blocks: int, n_pos: int) -> KeyValues | None:
    """Return what a pass left in its cache, for the blocks from `n_before` to `n_blocks`.

    None unless each of them holds `n_pos` positions. Blocks without attention, and blocks that
    share keys, leave gaps: such a model must be run from the first position.
    """
    layers = list(cache.layers)[n_before:n_blocks]
    if len(layers) < max(n_blocks - n_before, 1):
        return None
    if any(layer.get_seq_length() != n_pos for layer in layers):
        return None
    return KeyValues(n_before=n_before, blocks=[(layer.keys, layer.values) for layer in layers])
