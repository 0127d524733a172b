"""Where activations come from: streams, held-out rows, sources."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae.about import About
from gradsae.lm.model import LM
from gradsae.lm.sites import Site
from gradsae.sae.codes import SparseCodes


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
