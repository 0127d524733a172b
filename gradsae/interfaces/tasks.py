"""What is asked of an SAE: metrics and tasks, and the scores that they return."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, final

from gradsae.about import About, Score, plain
from gradsae.interfaces.methods import Method
from gradsae.interfaces.sources import ModelSource, Source
from gradsae.sae.dictionary import Dictionary
from gradsae.seeds import Seeds


@final
@dataclass(frozen=True)
class Skipped:
    """A metric that does not apply to this run, and why."""

    reason: str


@final
@dataclass(frozen=True, kw_only=True)
class Scores:
    """Named numbers (`kind/score` or `kind/score/variant`) and what a reader needs with them."""

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    n: dict[str, int] = field(default_factory=dict)
    series: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    """Small tables that figures draw; all columns of one series are equally long."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Scores that could not be given although the metric applies, and why."""
    forward_equivalents: float = 0.0
    """Model forward passes spent (a backward counts as two); 0 without a language model."""


class Metric(ABC):
    """One question asked of a trained SAE."""

    SCORES: ClassVar[tuple[Score, ...]] = ()
    """The scores that it gives: names, headers, directions, ranges, formulas."""

    def declared(self) -> tuple[Score, ...]:
        """Return the scores that it gives with these fields."""
        return self.SCORES

    @abstractmethod
    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        """Return named scores, or why there are none. `seed` fixes what is drawn."""


class Snapshot(NamedTuple):
    """An SAE as it was on the way of its training."""

    rows: int
    """Training activations that it had seen."""
    load: Callable[[], Dictionary]
    """Returns it, on the device of the finished SAE; each call reads it again."""


class Candidate(NamedTuple):
    """One of the SAEs that a task asked for."""

    method: Method[Any]
    sae: Dictionary | Skipped
    """Skipped if its training diverged; only where the task's `may_diverge` is true."""
    curve: Mapping[str, list[Any]]
    """Of its training: `step` and the logged parts of the loss, equally long."""
    along: Sequence[Snapshot] = ()
    """The SAEs at the rows of `Task.rows_along`, then the finished one; empty where it diverged."""


class Task(ABC):
    """What is asked of a method on a source: which SAEs it takes, and what is measured on them.

    A frozen dataclass. What it asks is part of a record's id; the class itself is not.
    """

    name: ClassVar[str]
    """In records, and on the command line: `task=name`."""
    version: ClassVar[int] = 1
    """Goes up when the same cell would give other numbers; part of a record's id."""
    headline: ClassVar[tuple[str, ...]]
    """Scores that a table shows, in their order; a variant behind a second `/` is left out."""
    question: ClassVar[str] = ""
    """What it asks, in one line for people: the heading of its tables."""
    compares_estimators: ClassVar[bool] = False
    """True if tables have a row for each estimator (the third part of a score's name); else the
    methods are compared."""
    ranked_by: ClassVar[str] = ""
    """The score by which the board ranks; empty where nothing is ranked."""
    is_on_board: ClassVar[bool] = True
    """False for a task that chooses settings: what comes of it is a figure."""
    measures_training: ClassVar[bool] = False
    """True if the cost of training belongs to the answer; `force=true` then trains anew."""
    SCORES: ClassVar[tuple[Score, ...]] = ()
    """The scores that it gives itself; those of its metrics are the metrics' own."""
    REFERENCES: ClassVar[Mapping[str, About]] = MappingProxyType({})
    """What its scores name besides estimators, by name: the truth, random directions."""
    COUNT: ClassVar[str] = ""
    """What `n` of a record calls its prompts or questions; empty where there are none."""
    may_diverge: ClassVar[bool] = False
    """True if the answer tells which trainings diverged; else a divergence ends the cell."""

    def why_not(self, source: Source) -> str | None:
        """Return why the task does not apply to a source, or None; nothing is loaded for it."""
        return None

    def asks(self) -> dict[str, Any]:
        """Return what is asked, as JSON values: part of a record's id."""
        return plain(self)

    def candidates(self, method: Method[Any], seeds: Seeds) -> list[tuple[Method[Any], Seeds]]:
        """Return the SAEs that are measured, each as its method and seeds; the cell's own first.

        Raises ValueError, before any work, where the method cannot be what the task asks for.
        """
        return [(method, seeds)]

    def rows_along(self, n_rows: int) -> Sequence[int]:
        """Return after how many rows of a training of `n_rows` it looks at an SAE on the way.

        Rising, from 1 to below `n_rows`. None for a task that asks for finished SAEs only.
        """
        return ()

    def declared(self) -> tuple[Score, ...]:
        """Return the scores that it gives with these fields."""
        return self.SCORES

    @abstractmethod
    def measure_all(
        self, candidates: Sequence[Candidate], source: Source, seed: int
    ) -> Scores | Skipped:
        """Return named scores of the candidates, or why there are none. `seed` fixes all draws."""


class SAETask(Task):
    """A task that measures one SAE, the cell's own."""

    def measure_all(
        self, candidates: Sequence[Candidate], source: Source, seed: int
    ) -> Scores | Skipped:
        (only,) = candidates
        return only.sae if isinstance(only.sae, Skipped) else self.measure(only.sae, source, seed)

    @abstractmethod
    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        """Return named scores, or why there are none. `seed` fixes all draws."""


class ModelTask(SAETask):
    """A task that measures one SAE inside the language model that its source reads."""

    def why_not(self, source: Source) -> str | None:
        if isinstance(source, ModelSource):
            return None
        return f"source {source.name} has no language model"
