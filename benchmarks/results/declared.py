"""What the components of a record declare: labels, families, flags, scores.

A component of this package speaks for itself, rebuilt from the record's config, so that a better
label reaches old records too. A stranger's component is described by the record (`Record.about`),
and has its bare name where the record does not.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradsae.about import About, Score
from gradsae.records.record import Record
from gradsae.tables.printing import printable

if TYPE_CHECKING:
    from gradsae.interfaces import Task

MAX_LABEL = 60  # characters


def method_of(record: Record) -> str:
    """Return the short name of the training method: `topk`, for one."""
    return record.setup.trainer.name or "none"


def about_method(record: Record) -> About:
    """Return label, family and flags of the method of a record."""
    from gradsae.bench import catalogue

    trainer = record.config.get("trainer")
    ours = catalogue.about_method(trainer) if isinstance(trainer, dict) else None
    return shown(ours) if ours else recorded_about(record.about.get("method"), method_of(record))


def about_source(record: Record) -> About:
    """Return label and paper of the source of a record."""
    from gradsae.bench import catalogue

    source = record.config.get("source")
    ours = catalogue.about_source(source) if isinstance(source, dict) else None
    name = record.setup.source.name or "unknown source"
    return shown(ours) if ours else recorded_about(record.about.get("source"), name)


def about_variant(record: Record, name: str) -> About:
    """Return label, family and flags of an estimator, or of another end of a score's name."""
    from gradsae.bench import catalogue

    ask = record.config.get("ask")
    ours = catalogue.about_variants(ask if isinstance(ask, dict) else {}).get(name)
    return shown(ours) if ours else recorded_about(record.about.get("variants", {}).get(name), name)


def headline_of(record: Record) -> tuple[str, ...]:
    """Return the scores that tables of a task show, in their order.

    For a stranger's task, those that its record declares, in the order of the record; those of a
    stranger's metric follow the ones of a task of this package.
    """
    task, recorded = known_task(record), record.about.get("scores", {})
    foreign = (name for name in recorded if known_score(name) is None)
    return (*task.headline, *foreign) if task else tuple(recorded)


def known_task(record: Record) -> "type[Task] | None":
    """Return the task of a record if it is one of this package."""
    from gradsae.bench import catalogue

    return catalogue.tasks().get(record.task["name"])


def score_of(record: Record, name: str) -> Score:
    """Return what a score of a record means; its bare name where nobody says.

    A name that is not declared itself is a variant of one that is: `kind/score/variant`.
    """
    return known_score(name) or recorded_score(record.about.get("scores", {}), name)


def known_score(name: str) -> Score | None:
    """Return what this package says of a score or of its variant, or None."""
    from gradsae.bench import catalogue

    ours = catalogue.known_scores()
    return ours.get(name) or ours.get(name.rpartition("/")[0])


def recorded_score(scores: Mapping[str, Mapping[str, Any]], name: str) -> Score:
    recorded = scores.get(name) or scores.get(name.rpartition("/")[0])
    score = Score(**recorded) if recorded else Score(name=name, header=name, better="", meaning="")
    return replace(score, header=printable(score.header, MAX_LABEL))


def recorded_about(about: Mapping[str, Any] | None, name: str) -> About:
    """Return what a record holds of a component that this package does not know."""
    return shown(About(**about) if about else About(label=name))


def shown(about: About) -> About:
    """Return what a table can show: also a component of this package may have a label that a
    stranger's config has filled."""
    label = printable(about.label, MAX_LABEL)
    return about if label == about.label else replace(about, label=label)
