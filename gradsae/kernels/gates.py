"""Gates: which latents open, given the encoder. A gate never sees the loss.

`select` chooses entries and runs without gradient; `activate` turns their pre-activations, by now
with gradient, into codes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from gradsae.codes import Codes, DenseCodes
from gradsae.kernels import select


class Gate(ABC):
    @abstractmethod
    def select(
        self,
        x: Float[Tensor, "batch d_in"],
        W: Float[Tensor, "d_sae d_in"],
        b: Float[Tensor, " d_sae"],
    ) -> Codes:
        """Return the pre-activations W x + b that may open; every other latent is closed."""

    @abstractmethod
    def activate(self, pre: Codes, b: Float[Tensor, " d_sae"]) -> Codes:
        """Return the codes of selected pre-activations."""


@final
@dataclass(frozen=True, kw_only=True)
class TopKGate(Gate):
    """Keep the k largest pre-activations of each row, then clip at zero."""

    k: int

    def select(
        self,
        x: Float[Tensor, "batch d_in"],
        W: Float[Tensor, "d_sae d_in"],
        b: Float[Tensor, " d_sae"],
    ) -> Codes:
        return select.top_k(x, W, b, self.k)

    def activate(self, pre: Codes, b: Float[Tensor, " d_sae"]) -> Codes:
        return pre.with_values(pre.values.relu())


@final
@dataclass(frozen=True, kw_only=True)
class ThresholdGate(Gate):
    """Open where the pre-activation (bias included) is above zero.

    `jump=False` is ReLU: the value is the pre-activation. `jump=True` puts out the pre-activation
    without its bias (GBA paper, section 4: the bias opens the gate but does not shrink the output).
    """

    jump: bool

    def select(
        self,
        x: Float[Tensor, "batch d_in"],
        W: Float[Tensor, "d_sae d_in"],
        b: Float[Tensor, " d_sae"],
    ) -> Codes:
        return select.above_zero(x, W, b)

    def activate(self, pre: Codes, b: Float[Tensor, " d_sae"]) -> Codes:
        values, b = pre.values, b.detach()
        if not self.jump:
            return pre.with_values(values.relu())
        if isinstance(pre, DenseCodes):
            return pre.with_values((values - b) * (values > 0))
        return pre.with_values(values - b[pre.latents])
