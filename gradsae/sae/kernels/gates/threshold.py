"""Gates that open where the pre-activation, bias included, is above zero."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from gradsae.sae.codes import Codes
from gradsae.sae.kernels import select
from gradsae.sae.kernels.gates.gate import Gate, Linear, per_entry


@final
class ReLUGate(Gate):
    """Put out the pre-activation."""

    name = "relu"

    def select(self, x: Float[Tensor, "batch d_in"], linear: Linear) -> Codes:
        return select.above_zero(x, linear.W, linear.b)

    def activate(self, pre: Codes, linear: Linear) -> Codes:
        return pre.with_values(pre.values.relu())


@final
class JumpGate(Gate):
    """Put out the pre-activation without its bias.

    Reference: Chen et al. 2025, https://arxiv.org/abs/2506.14002, section 4: the bias opens the
    gate but does not shrink the output.
    """

    name = "jump"

    def select(self, x: Float[Tensor, "batch d_in"], linear: Linear) -> Codes:
        return select.above_zero(x, linear.W, linear.b)

    def activate(self, pre: Codes, linear: Linear) -> Codes:
        values = pre.values
        return pre.with_values((values - per_entry(linear.b.detach(), pre)) * (values > 0))
