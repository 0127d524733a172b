"""All cases, from one module a topic."""

from importlib import import_module

from benchmarks.speed.case import Case

TOPICS = ("steps",)


def all_cases() -> list[Case]:
    return [case for topic in TOPICS for case in import_module(f"{__package__}.{topic}").cases()]


def find(name: str, shape: str) -> Case:
    """Return the case of that name and shape."""
    return next(case for case in all_cases() if (case.name, case.shape) == (name, shape))
