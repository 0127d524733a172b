"""Gated: one part of the encoder opens latents, another says how strong they are."""

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsae.sae.codes import Codes
from gradsae.sae.kernels import select
from gradsae.sae.kernels.gates.gate import Gate, Linear, per_entry


@final
class GatedGate(Gate):
    """Open where W x + b is above zero; put out ReLU(exp(r_mag) * W x + b_mag).

    Reference: Rajamanoharan et al. 2024, https://arxiv.org/abs/2404.16014, section 3.
    Parameters: r_mag [d_sae], the logarithm of the magnitude's scale, and b_mag [d_sae].
    """

    name = "gated"

    def __init__(self, d_sae: int) -> None:
        super().__init__()
        self.r_mag = nn.Parameter(torch.zeros(d_sae))
        self.b_mag = nn.Parameter(torch.zeros(d_sae))

    @classmethod
    def build(cls, d_sae: int, **settings: Any) -> "GatedGate":
        return cls(d_sae, **settings)

    def select(self, x: Float[Tensor, "batch d_in"], linear: Linear) -> Codes:
        return select.above_zero(x, linear.W, linear.b)

    def activate(self, pre: Codes, linear: Linear) -> Codes:
        scale, bias = (per_entry(t, pre) for t in (self.r_mag, self.b_mag))
        product = pre.values - per_entry(linear.b, pre)
        return pre.with_values((scale.exp() * product + bias).relu() * (pre.values > 0))
