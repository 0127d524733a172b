"""The k largest pre-activations: of each row, or (in training) of a whole batch."""

from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.sae.codes import Codes
from gradsae.sae.kernels import select
from gradsae.sae.kernels.gates.gate import Gate, Linear


@final
class TopKGate(Gate):
    """Keep the k largest pre-activations of each row, then clip at zero."""

    name = "topk"

    def __init__(self, *, k: int) -> None:
        super().__init__()
        self.k = self.most_open = k

    @classmethod
    def build(cls, d_sae: int, **settings: Any) -> "TopKGate":
        checks.whole("k (with gate=topk)", settings.get("k"), 1, d_sae)
        return cls(**settings)

    def settings(self) -> dict[str, Any]:
        return {"k": self.k}

    def select(self, x: Float[Tensor, "batch d_in"], linear: Linear) -> Codes:
        return select.top_k(x, linear.W, linear.b, self.k)

    def activate(self, pre: Codes, linear: Linear) -> Codes:
        return pre.with_values(pre.values.relu())


@final
class BatchTopKGate(Gate):
    """Keep the k * batch largest positive pre-activations of the whole batch.

    Which latents open on a row depends on the rows beside it, so this gate is for training only.
    """

    def __init__(self, *, k: int | float) -> None:
        super().__init__()
        self.k = k
        """Open latents per row, on average."""

    def select(self, x: Float[Tensor, "batch d_in"], linear: Linear) -> Codes:
        return select.top_of_batch(x, linear.W, linear.b, max(1, int(self.k * len(x))))

    def activate(self, pre: Codes, linear: Linear) -> Codes:
        return pre.with_values(pre.values.relu())
