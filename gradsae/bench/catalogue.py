"""The components of this package by name, and a record's components rebuilt from its config.

A config that came with a record is data from a stranger. So a class is looked up among those of
this package and never imported by a name from the record, and every field passes the checks of its
class. What is not known, or is refused, is left out.
"""

import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast

from gradsae.about import About, Score
from gradsae.influence.estimator import Estimator
from gradsae.influence.truth import Truth
from gradsae.interfaces import Method, Source, Task

PACKAGES = (
    *("gradsae.optim", "gradsae.trainers", "gradsae.sources", "gradsae.prompts"),
    *("gradsae.metrics", "gradsae.suitability", "gradsae.influence", "gradsae.masking"),
    "gradsae.steering",
)
"""Where components are defined."""

T = TypeVar("T")


@cache
def classes() -> dict[str, tuple[type, ...]]:
    """Return the dataclasses of this package by name; several may share one."""
    by_name: dict[str, tuple[type, ...]] = {}
    for name in PACKAGES:
        for module in _modules(name):
            for value in vars(module).values():
                is_own = getattr(value, "__module__", None) == module.__name__
                if isinstance(value, type) and is_own and is_dataclass(value):
                    by_name[value.__name__] = (*by_name.get(value.__name__, ()), value)
    return by_name


def _modules(name: str) -> Iterator[Any]:
    module = importlib.import_module(name)
    yield module
    for inner in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{name}."):
        yield importlib.import_module(inner.name)


def kinds(base: type[T]) -> list[type[T]]:
    """Return the known component classes of one kind, by name."""
    known_classes = (cls for _, same in sorted(classes().items()) for cls in same)
    return [cls for cls in known_classes if issubclass(cls, base)]


def rebuild(value: Any) -> Any:
    """Return a value of a config with its inner components built, as `checkpoints.plain` wrote it.

    LookupError where a class is unknown; TypeError or ValueError where its fields are refused.
    """
    if isinstance(value, Mapping):
        if "class" in value:
            return _build_inner(value)
        return {key: rebuild(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rebuild(item) for item in value]
    return value


def _build_inner(config: Mapping[str, Any]) -> Any:
    arguments = {key: rebuild(item) for key, item in config.items() if key != "class"}
    same = classes().get(str(config["class"]), ())
    for cls in same:
        if set(arguments) <= field_names(cls):
            return cls(**arguments)
    raise LookupError(f"no component {config['class']} has the fields {sorted(arguments)}")


def rebuild_trainer(config: Mapping[str, Any]) -> Method[Any] | None:
    """Return the method of a record's config, or None where it is not one of ours.

    A key that is no field is what `Method.content` adds (a file's hash).
    """
    return _named(Method, config, {"name"})


def rebuild_source(config: Mapping[str, Any]) -> Source | None:
    """Return the source of a record's config, or None: a model's activations need its files."""
    return _named(Source, config, {"name", "version"})


def _named(base: type[T], config: Mapping[str, Any], not_fields: set[str]) -> T | None:
    """Return the component of a kind that has the name and the fields of a config."""
    arguments = {key: item for key, item in config.items() if key not in not_fields}
    for cls in kinds(base):
        accepted = field_names(cls)
        adds = getattr(cls, "content", None) is not getattr(base, "content", None)
        if not adds and not set(arguments) <= accepted:
            continue
        built = _tried(cls, {key: item for key, item in arguments.items() if key in accepted})
        if built is not None and getattr(built, "name", None) == config.get("name"):
            return built
    return None


def _tried(cls: type[T], arguments: Mapping[str, Any]) -> T | None:
    try:
        return cls(**{key: rebuild(item) for key, item in arguments.items()})
    except Exception:  # a stranger's values: whatever is wrong with them, it is not ours
        return None


def described(value: Any, base: type[T]) -> list[T]:
    """Return the known components of a kind anywhere inside a config, in its order.

    For names and labels only. One whose fields have changed since is built from those that its
    class still takes.
    """
    if isinstance(value, Mapping):
        if "class" not in value:
            return [component for item in value.values() for component in described(item, base)]
        same = [c for c in classes().get(str(value["class"]), ()) if issubclass(c, base)]
        built = [_as_far_as_known(cls, value) for cls in same]
        return [component for component in built if component is not None]
    if isinstance(value, list):
        return [component for item in value for component in described(item, base)]
    return []


def _as_far_as_known(cls: type[T], config: Mapping[str, Any]) -> T | None:
    arguments = {key: item for key, item in config.items() if key in field_names(cls)}
    if (whole := _tried(cls, arguments)) is not None:
        return whole
    accepted = {key: item for key, item in arguments.items() if _tried(cls, {key: item})}
    return _tried(cls, accepted)


def field_names(cls: type) -> set[str]:
    return {field.name for field in fields(cast(Any, cls))}


def about_method(config: Mapping[str, Any]) -> About | None:
    """Return what the method of a config says of itself, or None where it is not ours."""
    return _about_method(json.dumps(config, sort_keys=True))


@cache
def _about_method(config: str) -> About | None:
    trainer = rebuild_trainer(json.loads(config))
    return trainer.about if trainer else None


def about_source(config: Mapping[str, Any]) -> About | None:
    """Return what the source of a config says of itself, or None where it is not ours."""
    return _about_source(json.dumps(config, sort_keys=True))


@cache
def _about_source(config: str) -> About | None:
    source = rebuild_source(json.loads(config))
    return source.about if source else None


def about_variants(ask: Mapping[str, Any]) -> Mapping[str, About]:
    """Return what the estimators and truths of a task's config say of themselves, by name.

    With them come those that every task of this package may name: estimators with their default
    fields, and the tasks' own references (the truth, random directions).
    """
    return _about_variants(json.dumps(ask, sort_keys=True))


@cache
def _about_variants(ask: str) -> Mapping[str, About]:
    config = json.loads(ask)
    named = [*described(config, Estimator), *described(config, Truth)]
    return {**known_variants(), **{component.name: component.about for component in named}}


@cache
def known_variants() -> Mapping[str, About]:
    """Return the references of the tasks, and estimators and truths with their default fields."""
    variants: dict[str, About] = {}
    for cls in _every_class():
        variants |= getattr(cls, "REFERENCES", {})
    for component in (*_by_default(Estimator), *_by_default(Truth)):
        variants[component.name] = component.about
    return variants


@cache
def known_scores() -> Mapping[str, Score]:
    """Return the scores that metrics and tasks of this package declare, by name."""
    return {score.name: score for cls in _every_class() for score in getattr(cls, "SCORES", ())}


@cache
def tasks() -> Mapping[str, type[Task]]:
    """Return the tasks of this package by name."""
    return {cls.name: cls for cls in kinds(Task)}


@cache
def counts() -> tuple[str, ...]:
    """Return the names under which the records of a task count its prompts or questions."""
    return tuple(sorted({cls.COUNT for cls in _every_class() if getattr(cls, "COUNT", "")}))


def _every_class() -> list[Any]:
    return [cls for same in classes().values() for cls in same]


def _by_default(base: type[T]) -> list[T]:
    """Return the components of a kind that need no field to be given."""
    return [cls() for cls in kinds(base) if all(map(_has_default, fields(cast(Any, cls))))]


def _has_default(field: Any) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING
