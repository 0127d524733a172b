"""Rows, chance controls and codes, made once for all metrics of one SAE.

Only inside `sharing()`: outside of it nothing is stored. Nothing that is shared may be written to.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Made = TypeVar("Made")

_STORE: ContextVar[dict[tuple[Any, ...], tuple[Any, Any]] | None] = ContextVar(
    "store", default=None
)


@contextmanager
def sharing() -> Iterator[None]:
    """Within this block, `once` makes a thing the first time it is asked for."""
    token = _STORE.set({})
    try:
        yield
    finally:
        _STORE.reset(token)


def is_sharing() -> bool:
    return _STORE.get() is not None


def once(name: str, *objects: Any, make: Callable[[], Made]) -> Made:
    """Return `make()`; inside `sharing()`, its earlier answer for this name and the same objects.

    Numbers are the same by value, everything else by identity.
    """
    store = _STORE.get()
    if store is None:
        return make()
    key = (name, *(part if isinstance(part, int) else id(part) for part in objects))
    if key not in store:
        store[key] = (objects, make())  # holding the objects, so that their identities stay theirs
    return store[key][1]
