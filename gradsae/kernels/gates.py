"""Gates: which latents open, given the pre-activations. A gate never sees the loss.

A gate returns codes without gradient; `gradsae.kernels.encode` attaches it. Through every gate
here the derivative of an open value to its pre-activation is one, and of a closed one zero.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gradsae.codes import Codes, DenseCodes, SparseCodes, from_rows

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
        open_ = pre > 0
        if open_.sum() > DENSE_ABOVE * open_.numel():
            return DenseCodes(values=((pre - b_enc) if self.jump else pre) * open_)
        return _pick(pre, open_, b_enc if self.jump else None)


def _pick(
    pre: Float[Tensor, "batch d_sae"],
    open_: Bool[Tensor, "batch d_sae"],
    bias: Float[Tensor, " d_sae"] | None,
) -> SparseCodes:
    """Return the open entries, row by row; `bias` is taken off the values."""
    flat = open_.view(-1).nonzero().squeeze(1)
    latents = flat % pre.shape[1]
    values = pre.reshape(-1)[flat]
    if bias is not None:
        values = values - bias[latents]
    offsets = torch.zeros(len(pre) + 1, dtype=torch.int64, device=pre.device)
    torch.cumsum(open_.sum(1), 0, out=offsets[1:])
    return SparseCodes(values=values, latents=latents, offsets=offsets, d_sae=pre.shape[1])
