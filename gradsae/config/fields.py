"""The fields of a component as config values: defaults filled in, unknown names refused."""

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from hydra.utils import get_class

from gradsae.errors import UserError

TARGET = "_target_"
INSTANTIATE = {TARGET, "_convert_", "_recursive_", "_partial_"}
"""Keys that Hydra's `instantiate` reads itself."""
REQUIRED = "???"
"""OmegaConf's mark of a value that must be set."""


def filled(node: Any) -> Any:
    """Return plain config values in which every mapping with a `_target_` has all fields of its
    dataclass; a field that the mapping does not set gets the default of the class.

    A field whose type is one dataclass (or None) needs no `_target_` of its own.
    """
    if isinstance(node, list):
        return [filled(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    component = class_of(node)
    parts = _parts(component) if component else {}
    given = {key: filled(_typed(value, parts.get(key))) for key, value in node.items()}
    return {**(_defaults(component) if component else {}), **given}


def refuse_unknown(path: str, node: Any) -> None:
    """Raise UserError if a mapping with a `_target_` sets a field that its class does not have.

    `path` is where `node` (plain values) stands in the config; the nearest field is named.
    """
    if isinstance(node, list):
        for i, item in enumerate(node):
            refuse_unknown(f"{path}[{i}]", item)
    if not isinstance(node, Mapping):
        return
    component = class_of(node)
    if component is not None:
        settable = [field.name for field in _settable(component)]
        for key in node:
            if key not in settable and key not in INSTANTIATE:
                near = difflib.get_close_matches(str(key), settable, n=1)
                mend = f"did you mean {near[0]}?" if near else f"it has {', '.join(settable)}"
                raise UserError(f"{path}.{key}: {component.__name__} has no field {key!r}; {mend}")
    for key, value in node.items():
        refuse_unknown(f"{path}.{key}", value)


def class_of(node: Mapping[Any, Any]) -> type | None:
    """Return the dataclass that a mapping names as its `_target_`, or None if it names none."""
    name = node.get(TARGET)
    if not isinstance(name, str) or "${" in name:
        return None
    try:
        component = get_class(name)
    except Exception:  # instantiate says why
        return None
    return component if is_dataclass(component) else None


def _settable(component: type) -> list[Field[Any]]:
    """Return the fields that a config may set: not those (HIDDEN, repr=False) that code sets."""
    return [each for each in fields(component) if each.init and each.repr]


@cache
def _parts(component: type) -> dict[str, type]:
    """Return the fields whose type is one dataclass, or that or None, with that dataclass."""
    try:
        hints = get_type_hints(component)
    except NameError:  # a type that is imported for checkers only
        return {}
    parts = {}
    for name, hint in hints.items():
        options = [each for each in get_args(hint) or (hint,) if each is not type(None)]
        if len(options) == 1 and isinstance(options[0], type) and is_dataclass(options[0]):
            parts[name] = options[0]
    return parts


def _typed(value: Any, part: type | None) -> Any:
    if part is None or not isinstance(value, Mapping) or TARGET in value:
        return value
    return {TARGET: f"{part.__module__}.{part.__qualname__}", **value}


@cache
def _defaults(component: type) -> dict[str, Any]:
    values = {each.name: _default(each) for each in _settable(component)}
    return {name: value for name, value in values.items() if value is not MISSING}


def _default(field: Field[Any]) -> Any:
    """Return a field's default as config values; MISSING where it has no plain form.

    A sequence that came LATER has none: as a list it would no longer equal the default.
    """
    if field.default_factory is not MISSING:
        return _plain(field.default_factory())
    if field.default is MISSING:
        return REQUIRED
    if isinstance(field.default, tuple) and field.metadata.get("later"):
        return MISSING
    return _plain(field.default)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in value]
        return MISSING if MISSING in items else items
    if is_dataclass(value) and not isinstance(value, type):
        named = {TARGET: f"{type(value).__module__}.{type(value).__qualname__}"}
        values = {each.name: _plain(getattr(value, each.name)) for each in _settable(type(value))}
        return named | {name: plain for name, plain in values.items() if plain is not MISSING}
    return MISSING
