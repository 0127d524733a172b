"""Records as someone would send them who wants more than to be read."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TRAP = "gradsae_was_here"
"""The file that hostile text makes, wherever it is run."""

TEXTS = (
    "${oc.env:HOME}",
    "{_target_: pathlib.Path.touch, self: {_target_: pathlib.Path, _args_: [" + TRAP + "]}}",
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>",
    "| a | b ** _c_ ~~d~~ ![x](https://e.org/f.png) [g](javascript:h) [i][j] <https://k.org>",
    "`$(touch " + TRAP + ")`; touch " + TRAP + " #",
    "line\n\n# head\n\n- item\n```\ncode\n",
    f"../../{TRAP}",
    "nul\x00bell\x07",
    "\x1b[2J\x1b]0;title\x07\u202eright to left",
    "$x^{$ \\frac{1}{0} {: onclick=alert(1) }",
    "=HYPERLINK(1)",
    "--> <!-- known_features: end -->",
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every text inside a record."""
    if isinstance(value, str):
        yield path
    for key, item in _items(value):
        yield from places(item, (*path, key))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of everything inside a record, also of lists and objects."""
    if path:
        yield path
    for key, item in _items(value):
        yield from leaves(item, (*path, key))


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []


def changed(data: dict[str, Any], path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """Return a copy with another value at one place."""
    data = copy.deepcopy(data)
    inner: Any = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = change(inner[path[-1]])
    return data


def was_trapped(root: Path) -> bool:
    """Return whether a file of the trap's name was made anywhere below a folder."""
    return next(root.rglob(f"*{TRAP}*"), None) is not None
