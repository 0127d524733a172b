"""JumpReLU: a threshold of its own for each latent."""

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsae import checks
from gradsae.sae.codes import Codes
from gradsae.sae.kernels import select
from gradsae.sae.kernels.gates.gate import Gate, Linear, per_entry
from gradsae.sae.kernels.jump import jump


@final
class JumpReLUGate(Gate):
    """Open where the pre-activation is above the latent's threshold, and put it out as it is.

    Entries up to half a bandwidth below are kept with value 0: they carry gradient to the
    threshold (see `gradsae.sae.kernels.jump`). Parameter: threshold [d_sae].
    """

    name = "jumprelu"

    def __init__(self, d_sae: int, *, bandwidth: float, to_input: bool = False) -> None:
        super().__init__()
        checks.number("bandwidth (with gate=jumprelu)", bandwidth, low=0)
        self.bandwidth = bandwidth
        """Width around the threshold within which it is trained; 0 if it is not trained."""
        self.to_input = to_input
        """Within it, train the pre-activation too."""
        self.threshold = nn.Parameter(torch.zeros(d_sae))

    @classmethod
    def build(cls, d_sae: int, **settings: Any) -> "JumpReLUGate":
        return cls(d_sae, **settings)

    def settings(self) -> dict[str, Any]:
        return {"bandwidth": self.bandwidth, "to_input": self.to_input}

    def select(self, x: Float[Tensor, "batch d_in"], linear: Linear) -> Codes:
        lowest = self.threshold - self.bandwidth / 2
        above = select.above_zero(x, linear.W, linear.b - lowest)
        return above.with_values(above.values + per_entry(lowest, above))

    def activate(self, pre: Codes, linear: Linear) -> Codes:
        threshold = per_entry(self.threshold, pre)
        return pre.with_values(jump(pre.values, threshold, self.bandwidth, self.to_input))
