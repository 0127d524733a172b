"""Keys and values of a pass: what lets a re-run begin in its middle, or go on after its end."""

from dataclasses import dataclass
from inspect import signature
from typing import Any, final

from torch import Tensor, nn


def empty_cache(model: nn.Module) -> Any:
    """Return a transformers cache to be filled by a pass, or None if the model takes none.

    Without a config it keeps every position in every layer; the masks of layers with a sliding
    window look at the config themselves.
    """
    if "past_key_values" not in signature(model.forward).parameters:
        return None
    from transformers import DynamicCache

    return DynamicCache()


@final
@dataclass(frozen=True, kw_only=True)
class Past:
    """The keys and values that a pass left in the blocks from one on."""

    n_before: int
    """Blocks before the first that has them; those are never run on this past."""
    layers: list[tuple[Tensor, Tensor]]
    """Keys and values [rows heads pos d_head] of each block after them."""

    def cache(self, start: int, n_rows: int) -> Any:
        """Return a cache that holds the positions before `start`; one row stands for all."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(self.n_before):  # only asked how long it is
            length = self.layers[0][0].new_empty(1, 1, start, 1)
            cache.update(length, length, layer)
        for layer, both in enumerate(self.layers, self.n_before):
            keys, values = (x[:, :, :start].expand(n_rows, -1, -1, -1) for x in both)
            cache.update(keys, values, layer)
        return cache

    def at(self, position: int) -> "Past":
        """Return the keys and values of one position."""
        here = slice(position, position + 1)
        layers = [(keys[:, :, here], values[:, :, here]) for keys, values in self.layers]
        return Past(n_before=self.n_before, layers=layers)

    def after(self, earlier: "Past") -> "Past":
        """Return these keys and values with those of the blocks before them from another pass."""
        n_earlier = self.n_before - earlier.n_before
        return Past(n_before=earlier.n_before, layers=earlier.layers[:n_earlier] + self.layers)


def kept_in(cache: Any, n_before: int, n_layers: int, n_pos: int) -> Past | None:
    """Return what a pass left in its cache; None unless each block before `n_layers` filled it.

    Those before `n_before` are not asked. Blocks without attention, or that share keys, leave gaps:
    such a model must be run whole.
    """
    layers = list(cache.layers)[n_before:n_layers]
    if len(layers) < max(n_layers - n_before, 1):
        return None
    if any(layer.get_seq_length() != n_pos for layer in layers):
        return None
    return Past(n_before=n_before, layers=[(layer.keys, layer.values) for layer in layers])
