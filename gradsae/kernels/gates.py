"""Gates: which latents open, given the pre-activations. A gate never sees the loss.

A gate returns codes without gradient; `gradsae.kernels.encode` attaches it. Through every gate
here the derivative of an open value to its pre-activation is one, and of a closed one zero.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from gradsae.codes import Codes, DenseCodes, from_rows
from gradsae.kernels.backend import backend

DENSE_ABOVE = 0.05
"""Share of open latents above which matrix products beat gathers (see benchmarks/speed.py)."""


class Gate(ABC):
    @abstractmethod
    def select(self, pre: Float[Tensor, "batch d_sae"], b_enc: Float[Tensor, " d_sae"]) -> Codes:
        """Return the open latents of each row. Runs without gradient."""


@final
@dataclass(frozen=True, kw_only=True)
class TopKGate(Gate):
    """Keep the k largest pre-activations of each row, then clip at zero."""

    k: int

    def select(self, pre: Float[Tensor, "batch d_sae"], b_enc: Float[Tensor, " d_sae"]) -> Codes:
        top = pre.topk(self.k, dim=1, sorted=False)
        return from_rows(top.values.relu(), top.indices, pre.shape[1])


@final
@dataclass(frozen=True, kw_only=True)
class ThresholdGate(Gate):
    """Open where the pre-activation (bias included) is above zero.

    `jump=False` is ReLU: the value is the pre-activation. `jump=True` puts out the pre-activation
    without its bias (GBA paper, section 4: the bias opens the gate but does not shrink the output).
    """

    jump: bool

    def select(self, pre: Float[Tensor, "batch d_sae"], b_enc: Float[Tensor, " d_sae"]) -> Codes:
        n_open = backend(pre).count_open(pre)
        if n_open.sum() > DENSE_ABOVE * pre.numel():
            return DenseCodes(values=((pre - b_enc) if self.jump else pre) * (pre > 0))
        codes = backend(pre).open_entries(pre, n_open)
        return codes.with_values(codes.values - b_enc[codes.latents]) if self.jump else codes
