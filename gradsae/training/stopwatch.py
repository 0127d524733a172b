"""Time shared out between trainings: wall time on a CPU, device time on a GPU, without a wait."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Protocol, final, runtime_checkable

import torch


@runtime_checkable
class Timed(Protocol):
    seconds: float


@final
class Stopwatch:
    """Adds the time since the last lap to its owners, in equal shares.

    On a GPU a lap is an event in the queue of work; what it adds is known after `read`.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._laps: list[tuple[Any, Any, Sequence[Timed]]] = []
        self._last: Any = self._now()

    def lap(self, owners: Sequence[Timed]) -> None:
        now = self._now()
        if self._on_gpu:
            self._laps.append((self._last, now, owners))
        else:
            _share(now - self._last, owners)
        self._last = now

    def read(self) -> None:
        """Bring every owner's `seconds` up to date; on a GPU this waits for its work."""
        if self._laps:
            self._last.synchronize()
        for start, end, owners in self._laps:
            _share(start.elapsed_time(end) / 1000, owners)
        self._laps.clear()

    def _now(self) -> Any:
        if not self._on_gpu:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _share(seconds: float, owners: Sequence[Timed]) -> None:
    for owner in owners:
        owner.seconds += seconds / len(owners)
