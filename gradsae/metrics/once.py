"""What the metrics of one SAE would each make anew (rows, chance controls, codes), made once.

Only inside `sharing()`: outside of it nothing is kept. Nothing that is shared may be written to.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Made = TypeVar("Made")

_KEPT: ContextVar[dict[tuple[Any, ...], tuple[Any, Any]] | None] = ContextVar("kept", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Within this block, `once` makes a thing the first time it is asked for."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def is_sharing() -> bool:
    return _KEPT.get() is not None


def once(what: str, *of: Any, make: Callable[[], Made]) -> Made:
    """Return `make()`, or inside `sharing()` what it gave before for `what` of the same objects.

    Numbers are the same by value, everything else by identity.
    """
    kept = _KEPT.get()
    if kept is None:
        return make()
    key = (what, *(part if isinstance(part, int) else id(part) for part in of))
    if key not in kept:
        kept[key] = (of, make())  # holding the objects, so that their identities stay theirs
    return kept[key][1]
