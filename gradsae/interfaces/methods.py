"""What yields an SAE: methods, and trainers, which take steps."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Generic, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar

from gradsae.about import About
from gradsae.errors import UserError
from gradsae.interfaces.sources import KnownSource, Source
from gradsae.optim import Optim
from gradsae.sae.dictionary import Dictionary, Pass
from gradsae.sae.kernels.gates.gate import Gate
from gradsae.sae.model import SAE


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

    def gate_at(self, progress: Progress) -> Gate | None:
        """Return the gate of one training step, for a method whose gate changes as it trains."""
        return self.gate

    @abstractmethod
    def loss(self, sae: Kind, out: Pass, progress: Progress) -> Loss:
        """Return what is minimised on one batch."""

    @abstractmethod
    def after_step(self, sae: Kind, out: Pass, progress: Progress) -> None:
        """Adjust the SAE outside the gradient: norms, biases, dead latents. No gradient here."""
