"""Training batches whose position can be saved: drawn as they come, or read from stored rows."""

from collections.abc import Callable, Mapping
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.errors import TooFewRowsError
from gradsae.interfaces import Stream
from gradsae.seeds import make_generator


def _sent(x: Float[Tensor, "batch d_in"], device: torch.device) -> Float[Tensor, "batch d_in"]:
    """Return the batch on the device; to CUDA without waiting for the copy."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()  # only from page-locked memory does a copy run beside the rest
    return x.to(device, non_blocking=True)


Draw = Callable[[int, torch.Generator], Float[Tensor, "n d_in"]]
"""Returns n fresh rows."""


@final
class DrawnStream(Stream):
    """Fresh samples, drawn on the CPU so that every device sees the same batches."""

    def __init__(
        self,
        draw: Draw,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._draw = draw
        self._batch_size = batch_size
        self._device = device
        self._generator = make_generator(seed, "data")

    def next(self) -> Float[Tensor, "batch d_in"]:
        return _sent(self._draw(self._batch_size, self._generator), self._device)

    def state(self) -> dict[str, Tensor]:
        return {"generator": self._generator.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._generator.set_state(state["generator"].cpu())


Gather = Callable[[Int[Tensor, " batch"]], Float[Tensor, "batch d_in"]]
"""Returns the stored rows at an index, in that order, in float32."""


@final
class ShuffledStream(Stream):
    """Stored rows in a new random order each epoch; no row comes twice in an epoch.

    The rows that do not fill the last batch of an epoch are left out of that epoch.
    """

    def __init__(
        self, gather: Gather, n_rows: int, batch_size: int, seed: int, device: torch.device
    ) -> None:
        if batch_size > n_rows:
            raise TooFewRowsError("fit.batch_size", batch_size, n_rows)
        self._gather = gather
        self._n_rows = n_rows
        self._batch_size = batch_size
        self._device = device
        self._go_to(seed=seed, epoch=0, cursor=0)

    def next(self) -> Float[Tensor, "batch d_in"]:
        if self._cursor + self._batch_size > self._n_rows:
            self._go_to(seed=self._seed, epoch=self._epoch + 1, cursor=0)
        index = self._order[self._cursor : self._cursor + self._batch_size]
        self._cursor += self._batch_size
        return _sent(self._gather(index), self._device)

    def state(self) -> dict[str, Tensor]:
        return {"position": torch.tensor([self._seed, self._epoch, self._cursor])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        seed, epoch, cursor = state["position"].tolist()
        self._go_to(seed=seed, epoch=epoch, cursor=cursor)

    def _go_to(self, *, seed: int, epoch: int, cursor: int) -> None:
        generator = make_generator(seed, f"data/epoch {epoch}")
        self._seed, self._epoch, self._cursor = seed, epoch, cursor
        self._order = torch.randperm(self._n_rows, generator=generator)
