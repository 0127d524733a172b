"""Compiled loops over rows, shared out over Python threads.

The loops run without the interpreter's lock. (numba's own parallel loops bring a second OpenMP
pool, and two pools that wait in a spin take each other's cores: see results/LOG.md.)
"""

import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

SERIAL_BELOW = 1 << 21
"""Multiply-adds under which one thread is faster than waking others (about 0.5 ms)."""

FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
"""Sums in any order, so that they are vectorised; but NaN and infinity keep their meaning."""
IN_ORDER = {"contract"}
"""A product and its sum are rounded once where the CPU can; that is all."""


def compiled(loop: Callable[..., Any], fastmath: set[str] = FASTMATH) -> Callable[..., Any]:
    """Compile at first use, kept on disk. `unwrap` takes off the shape checks that tests put on.

    Pass arrays, numbers and plain tuples. For a class of ours the file on disk would name it, and
    could not be read once the class is renamed. Where nothing can be kept, each process compiles.
    """
    plain = inspect.unwrap(loop)
    try:
        kept: Any = numba.njit(fastmath=fastmath, cache=True, nogil=True)(plain)
    except RuntimeError:  # neither the folder of the code nor one of the user's can be written
        return numba.njit(fastmath=fastmath, nogil=True)(plain)
    save = kept._cache.save_overload

    def save_if_possible(signature: Any, compiled_loop: Any) -> None:
        with suppress(OSError):  # a full disk
            save(signature, compiled_loop)

    kept._cache.save_overload = save_if_possible
    return kept


def in_order(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop whose sums must be taken as they are written."""
    return compiled(loop, IN_ORDER)


@lru_cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="gradsae-kernel")


_LOCAL = threading.local()


def stay_on_one_thread() -> None:
    """Let the loops that the calling thread starts run on it alone."""
    _LOCAL.alone = True


def in_parts(loop: Callable[..., Any], cost: np.ndarray, total: int, *arrays: Any) -> None:
    """Run a loop over all rows: here, or on several threads in parts of like cost.

    `cost` is cumulative over rows, from 0; `total` counts multiply-adds.
    """
    n_rows, n_threads = len(cost) - 1, torch.get_num_threads()
    if n_threads == 1 or getattr(_LOCAL, "alone", False) or total < SERIAL_BELOW:
        loop(0, n_rows, *arrays)
        return
    cuts = np.searchsorted(cost, np.linspace(0, cost[-1], 4 * n_threads + 1))
    cuts[0], cuts[-1] = 0, n_rows
    parts = iter([(int(a), int(b)) for a, b in pairwise(cuts)])

    def work() -> None:
        for start, stop in parts:  # the next part goes to whoever is free
            loop(start, stop, *arrays)

    helpers = [_pool(n_threads).submit(work) for _ in range(n_threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():  # one that has not begun is not needed
            helper.result()


def even(n_rows: int) -> np.ndarray:
    """Return the cumulative cost of rows that cost the same."""
    return np.arange(n_rows + 1)


def as_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
