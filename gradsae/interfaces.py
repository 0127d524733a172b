"""What a contributor can add: a source, a method or trainer, a metric, a task.

Shape names, used all over the package:
    batch   activations in a batch        d_in        width of one activation
    d_sae   latents of an SAE             n_features  true directions (known sources only)
    nnz     stored entries of a code      pos, vocab  token positions, vocabulary
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, cast, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import TypeVar

from gradsae.about import About, Score
from gradsae.errors import UserError
from gradsae.lm.model import LM
from gradsae.lm.sites import Site
from gradsae.optim import Optim
from gradsae.sae.codes import SparseCodes
from gradsae.sae.dictionary import Dictionary, Pass
from gradsae.sae.kernels.gates.gate import Gate
from gradsae.sae.model import SAE
from gradsae.seeds import Seeds

LATER: Mapping[str, Any] = MappingProxyType({"later": True})
"""Metadata of a hyperparameter that came later: while it has its default it is left out of ids and
records, so that what was made before keeps its id."""
HIDDEN: Mapping[str, Any] = MappingProxyType({"hidden": True})
"""Metadata of a field that never stands in ids and records."""


def is_shown(field: Field[Any], value: Any) -> bool:
    """Whether a field of the dataclass `value` stands in ids and records: see LATER and HIDDEN."""
    given = getattr(value, field.name)
    given = tuple(given) if isinstance(given, list) else given  # a YAML has no tuples
    later = field.metadata.get("later") and given == field.default
    return not (later or field.metadata.get("hidden"))


def plain(value: Any) -> Any:
    """Return a component as JSON values; a component inside another one also says its class."""
    if is_dataclass(value):
        shown = [field for field in fields(value) if is_shown(field, value)]
        return {field.name: _inner(getattr(value, field.name)) for field in shown}
    return _inner(value)


def _inner(value: Any) -> Any:
    if is_dataclass(value):
        return {"class": type(value).__name__, **plain(value)}
    if isinstance(value, Mapping):
        return {key: _inner(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_inner(item) for item in value]
    return value


class Stream(ABC):
    """An endless stream of training activations whose position can be saved."""

    @abstractmethod
    def next(self) -> Float[Tensor, "batch d_in"]:
        """Return the next batch."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return what `restore` needs to go on with exactly the batch that `next` would return."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None: ...


class HeldOut(NamedTuple):
    """Activations that no training stream returns."""

    x: Float[Tensor, "batch d_in"]
    truth: SparseCodes | None = None
    """True coefficients over the source's features, where they are known."""
    outlier: Bool[Tensor, " batch"] | None = None
    """Rows that the source's filter keeps out of training (norm far above the median)."""


class Source(ABC):
    """Where activations come from. A frozen dataclass; its field `seed` fixes the world."""

    name: ClassVar[str]

    @property
    def about(self) -> About:
        """Return label and paper: what tables, figures and the board show."""
        return About(label=self.name)

    @property
    @abstractmethod
    def d_in(self) -> int:
        """Width of one activation."""

    def prepare(self) -> None:  # noqa: B027, most sources have nothing to prepare
        """Make the data ready now, which may take long, so that it is not timed as training."""

    @abstractmethod
    def stream(self, batch_size: int, seed: int, device: torch.device) -> Stream:
        """Return training batches; the same seed gives the same batches."""

    @abstractmethod
    def held_out(self, n: int, seed: int) -> HeldOut:
        """Return up to `n` rows on the CPU; the same seed gives the same rows."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what shapes the data (JSON-able): part of every id made from it."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Return what a reader must know of the data and does not shape it (notes, counts)."""


class KnownSource(Source):
    """A source whose true features are known."""

    @abstractmethod
    def features(self) -> Float[Tensor, "n_features d_in"]:
        """Unit-norm true directions."""

    @abstractmethod
    def rates(self) -> Float[Tensor, " n_features"]:
        """Probability that each feature is active on a sample."""


@runtime_checkable
class Hierarchy(Protocol):
    """What a source offers besides, if some of its features fire only where another one does."""

    def edges(self) -> Int[Tensor, "n_edges 2"]:
        """Return the pairs (parent, child) of features; none where features are independent."""
        ...


@runtime_checkable
class Biased(Protocol):
    """What a known source offers besides, if its rows are a sum of features plus a constant."""

    def offset(self) -> Float[Tensor, " d_in"]:
        """Return what is added to every row."""
        ...


class ModelSource(Source):
    """A source that reads a hook site of a language model."""

    @abstractmethod
    def lm(self) -> LM:
        """Return the loaded model (loaded once a process)."""

    @abstractmethod
    def site(self) -> Site: ...

    @abstractmethod
    def names(self) -> dict[str, dict[str, str]]:
        """Return {"model": {"name": ...}, "corpus": {"name": ...}} for records and figures."""

    @abstractmethod
    def activations_id(self) -> str:
        """Return the id of the activation store; nothing is loaded for it."""

    @abstractmethod
    def eval_windows(self, n: int, seed: int) -> Sequence[Int[Tensor, " pos"]]:
        """Return `n` token windows of held-out documents."""

    @abstractmethod
    def dropped(
        self, token_ids: Int[Tensor, "batch pos"], acts: Float[Tensor, "batch pos d_in"]
    ) -> Bool[Tensor, "batch pos"]:
        """Return the positions an SAE of this source never saw: special tokens and outliers."""


class Progress(NamedTuple):
    step: int
    n_steps: int


class Loss(NamedTuple):
    total: Float[Tensor, ""]
    parts: dict[str, Tensor]
    """Zero-dimensional tensors, logged as they are; never read back by the training loop."""


Kind = TypeVar("Kind", bound=Dictionary, default=SAE)
"""What a method builds: an `SAE`, or an SAE of a kind of its own."""


class Method(ABC, Generic[Kind]):
    """What yields an SAE. A frozen dataclass; its fields are hyperparameters.

    A method that is no `Trainer` (a control, an oracle, a released SAE) is built and takes no step.
    """

    d_sae: int

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in records."""

    @property
    def about(self) -> About:
        """Return label, family, paper and flags: what tables, figures and the board show."""
        return About(label=self.name)

    @property
    def needs_truth(self) -> bool:
        """True for an oracle, which has a field `truth` for a source with known features.

        Only `bind` sets the field, so no other method can see what it is to find.
        """
        return False

    def content(self) -> dict[str, Any]:
        """Return what shapes the SAE beside the fields: the hash of a file, for one that is loaded.

        Part of every id, and the fields say where the file is, which is not.
        """
        return {}

    def why_not(self, source: Source) -> str | None:
        """Return why the method does not apply to a source, or None."""
        if self.needs_truth and not isinstance(source, KnownSource):
            return f"source {source.name} has no known features"
        return None

    def bind(self, source: Source) -> "Method[Kind]":
        """Return the method with what it takes from its source: true features, for an oracle.

        Raises UserError where the method belongs to another source.
        """
        if self.needs_truth and isinstance(source, KnownSource):
            return replace(cast(Any, self), truth=source)
        return self

    @abstractmethod
    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> Kind:
        """Return the SAE before its first step, on the CPU.

        `sample` is raw training activations: normalisation constants, the centre and initial
        biases come from it, and from nothing else.
        """

    def blank(self, d_in: int) -> Dictionary:
        """Return an SAE of this method's own kind, whose weights a checkpoint then fills.

        Needed only where `build` returns a kind that is not of this package: a file never names
        the code that reads it.
        """
        raise UserError(
            f"trainer {self.name} builds an SAE of a kind of its own, so it must define "
            f"blank(d_in): the same kind of SAE, before its weights are loaded (d_in={d_in})"
        )


class Trainer(Method[Kind]):
    """A method that takes steps: its state between them is buffers of the SAE."""

    optim: Optim

    @property
    def gate(self) -> Gate | None:
        """The gate of training steps, or None for the SAE's own.

        Only `gradsae.training.fit` uses it: everyone else gets the function that is saved.
        """
        return None

    @abstractmethod
    def loss(self, sae: Kind, out: Pass, progress: Progress) -> Loss:
        """Return what is minimised on one batch."""

    @abstractmethod
    def after_step(self, sae: Kind, out: Pass, progress: Progress) -> None:
        """Adjust the SAE outside the gradient: norms, biases, dead latents. No gradient here."""


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


class Candidate(NamedTuple):
    """One of the SAEs that a task asked for."""

    method: Method[Any]
    sae: Dictionary | Skipped
    """Skipped if its training diverged; only where the task's `may_diverge` is true."""
    curve: Mapping[str, list[Any]]
    """Of its training: `step` and the logged parts of the loss, equally long."""


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
