"""Gates: which latents open, given the encoder. A gate never sees the loss.

`select` chooses entries and runs without gradient; `activate` turns their pre-activations, by now
with gradient, into codes.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from gradsae.sae.codes import Codes, DenseCodes


class Linear(NamedTuple):
    """The linear part of an encoder: pre-activations are W x + b."""

    W: Float[Tensor, "d_sae d_in"]
    b: Float[Tensor, " d_sae"]


class Gate(nn.Module, ABC):
    """A gate owns its parameters; in files they stand under their own names, as the SAE's do."""

    name: ClassVar[str] = ""
    """In files and configs; the empty string for a gate that is for training only."""
    most_open: int | None = None
    """Most latents that it opens on one row, where it sets a limit."""

    @abstractmethod
    def select(self, x: Float[Tensor, "batch d_in"], linear: Linear) -> Codes:
        """Return the pre-activations W x + b that may open; every other latent is closed."""

    @abstractmethod
    def activate(self, pre: Codes, linear: Linear) -> Codes:
        """Return the codes of selected pre-activations."""

    @classmethod
    def build(cls, d_sae: int, **settings: Any) -> "Gate":
        """Return a new gate from the settings that a file holds (see `settings`)."""
        return cls(**settings)

    def settings(self) -> dict[str, Any]:
        """Return what a file must say, beside the parameters, to build this gate again."""
        return {}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items())


def per_entry(of_latents: Float[Tensor, " d_sae"], codes: Codes) -> Float[Tensor, "..."]:
    """Return the number of each stored entry's latent, in the shape of `codes.values`."""
    if isinstance(codes, DenseCodes):
        return of_latents.expand(codes.n_rows, -1)
    # Not by brackets: their gradient is a sum in the order in which threads come to it.
    return of_latents.index_select(0, codes.latents)
