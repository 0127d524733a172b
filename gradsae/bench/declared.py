"""What components and scores say of themselves, gathered for a record."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from gradsae.about import Score
from gradsae.influence.estimator import Estimator
from gradsae.influence.truth import Truth
from gradsae.interfaces import Method, Metric, Source, Task
from gradsae.records.shapes import Declared


def declarations(
    method: Method[Any], source: Source, task: Task, scores: Iterable[str]
) -> Declared:
    """Return what the method, the source, the given scores and their variants say of themselves.

    Tables and figures take their words from here where a component is not of this package.
    """
    parts = list(components(task))
    by_name = {score.name: score for part in parts for score in _scores_of(part)}
    variants = dict(task.REFERENCES)
    variants |= {part.name: part.about for part in parts if isinstance(part, (Estimator, Truth))}
    in_record = {name for score in scores for name in (score, score.rpartition("/")[0])}
    return {
        "method": asdict(method.about),
        "source": asdict(source.about),
        "scores": {name: asdict(score) for name, score in by_name.items() if name in in_record},
        "variants": {name: asdict(about) for name, about in variants.items()},
    }


def components(value: Any) -> Iterator[Any]:
    """Yield a component and those inside it, at any depth."""
    if is_dataclass(value):
        yield value
        inside = [getattr(value, field.name) for field in fields(value)]
    elif isinstance(value, Mapping):
        inside = list(value.values())
    else:
        inside = value if isinstance(value, list | tuple) else []
    for part in inside:
        yield from components(part)


def _scores_of(part: Any) -> tuple[Score, ...]:
    return part.declared() if isinstance(part, (Metric, Task)) else ()
