"""Training batches whose position can be saved: drawn as they come, or read from stored rows."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
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
    """Fresh samples, drawn on the CPU so that every device sees the same batches.

    With `ahead` the next batch is drawn on a thread of its own while the caller works on this one,
    from the second batch on; `draw` must then come out the same on any number of threads. Batches
    and states are those of a stream that draws when it is asked.
    """

    def __init__(
        self,
        draw: Draw,
        batch_size: int,
        seed: int,
        device: torch.device,
        *,
        ahead: bool = False,
    ) -> None:
        self._draw = draw
        self._batch_size = batch_size
        self._device = device
        self._generator = make_generator(seed, "data")
        self._ahead = ahead
        self._is_first = True
        self._pending: Future[Tensor] | None = None
        self._state = self._generator.get_state()
        """Of the generator before the pending batch was drawn."""

    def next(self) -> Float[Tensor, "batch d_in"]:
        pending, self._pending = self._pending, None
        x = self._drawn() if pending is None else pending.result()
        if self._ahead and not self._is_first:
            self._state = self._generator.get_state()
            self._pending = _drawer().submit(self._drawn)
        self._is_first = False
        return _sent(x, self._device)

    def _drawn(self) -> Float[Tensor, "batch d_in"]:
        return self._draw(self._batch_size, self._generator)

    def state(self) -> dict[str, Tensor]:
        state = self._generator.get_state() if self._pending is None else self._state
        return {"generator": state}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        if self._pending is not None:
            wait([self._pending])  # it draws from the same generator
            self._pending = None
        self._generator.set_state(state["generator"].cpu())


@lru_cache
def _drawer() -> ThreadPoolExecutor:
    """Return the thread that draws ahead; compiled loops leave the other cores to the caller."""
    from gradsae.sae.kernels.loops import stay_on_one_thread  # numba takes a second to import

    return ThreadPoolExecutor(1, "gradsae-ahead", initializer=stay_on_one_thread)


os.register_at_fork(after_in_child=_drawer.cache_clear)  # a child has the pool, not its thread


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
