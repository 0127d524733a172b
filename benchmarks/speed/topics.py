"""All cases, from one module a topic."""

from importlib import import_module
from importlib.util import find_spec

from benchmarks.speed.case import Case

TOPICS = ("steps", "generator", "size", "language", "sweeps", "metrics", "gpu")


def all_cases() -> list[Case]:
    names = [f"{__package__}.{topic}" for topic in TOPICS]
    return [case for name in names if find_spec(name) for case in import_module(name).cases()]


def find(name: str, shape: str) -> Case:
    """Return the case of that name and shape."""
    return next(case for case in all_cases() if (case.name, case.shape) == (name, shape))
