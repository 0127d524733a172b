"""SAEs that encode by sparse coding over their decoder's rows, the atoms.

Their encoder has no weights of its own: a row's code is what a pursuit finds.
"""

from abc import abstractmethod
from copy import deepcopy
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsae import checks
from gradsae.sae import kernels
from gradsae.sae.codes import Codes, SparseCodes
from gradsae.sae.dictionary import Normalised, Reading, fresh_normaliser
from gradsae.sae.directions import random_directions
from gradsae.sae.kernels.gates.gate import Gate
from gradsae.sae.kernels.peel import peel
from gradsae.sae.kernels.precision import Precision, factor
from gradsae.sae.kernels.pursuit import pursue
from gradsae.sae.normalise import MODES, Mode


class SparseCoder(Normalised):
    """Codes are coefficients of x - b_dec over the atoms, at most k of them on a row.

    Parameters: W_enc [d_sae, d_in], the atoms, of norm 1; b_dec [d_in]. No gradient passes through
    the codes: where they come from least squares, the error does not change with them to first
    order.
    """

    name: ClassVar[str]
    """In files, under `gate`."""

    def __init__(self, d_in: int, d_sae: int, k: int, normalise: Mode = "none") -> None:
        checks.whole("d_in", d_in, 1)
        checks.whole("d_sae", d_sae, 1)
        checks.whole(f"k (with gate={self.name})", k, 1, d_sae)
        checks.one_of("normalise", normalise, MODES)
        super().__init__(fresh_normaliser(normalise, d_in), d_sae, k)
        self.k = k
        self.W_enc = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.register_load_state_dict_pre_hook(_drop_bias)

    @abstractmethod
    def pursue(self, x: Float[Tensor, "batch d_in"]) -> SparseCodes:
        """Return the coefficients of centred rows; a closed one may be stored as 0 or less."""

    def settings(self) -> dict[str, Any]:
        """Return what `sae.json` says beside the shape."""
        return {"k": self.k}

    def decoder(self) -> Float[Tensor, "d_sae d_in"]:
        return self.W_enc

    @torch.no_grad()
    def encode_in(
        self,
        x_in: Float[Tensor, "batch d_in"],
        precision: Precision = "fp32",
        gate: Gate | None = None,
    ) -> kernels.Encoded:
        if gate is not None:
            raise ValueError(f"{type(self).__name__} encodes by pursuit and takes no gate")
        pre = self.pursue(factor(x_in - self.b_dec, precision))
        return kernels.Encoded(pre.with_values(pre.values.relu()), pre)

    def decode_in(self, codes: Codes, precision: Precision = "fp32") -> Float[Tensor, "batch d_in"]:
        return kernels.decode(codes, self.W_enc, precision) + self.b_dec

    def reading(self, x: Float[Tensor, "batch d_in"]) -> Reading:
        """Return the first look of a pursuit, which is a projection on every atom."""
        return Reading(self.normaliser.apply(x).x, self.W_enc.detach())

    @torch.no_grad()
    def chance(self, generator: torch.Generator) -> "SparseCoder":
        control, directions = deepcopy(self), random_directions(self.d_sae, self.d_in, generator)
        control.W_enc.copy_(directions.to(self.W_enc) * self.W_enc.norm(dim=1, keepdim=True))
        return control

    def architecture(self) -> dict[str, Any]:
        shape = {"d_in": self.d_in, "d_sae": self.d_sae, "gate": self.name, "tied": True}
        return {**shape, "normalise": self.mode, **self.settings()}


@final
class PursuitCoder(SparseCoder):
    """Orthogonal matching pursuit (see `gradsae.sae.kernels.pursuit`); for controls."""

    name = "pursuit"

    def __init__(
        self, d_in: int, d_sae: int, k: int, tolerance: float, normalise: Mode = "none"
    ) -> None:
        super().__init__(d_in, d_sae, k, normalise)
        checks.share("tolerance (with gate=pursuit)", tolerance)
        self.tolerance = tolerance
        """Share of a row's norm that the code may leave."""

    def settings(self) -> dict[str, Any]:
        return {"k": self.k, "tolerance": self.tolerance}

    def pursue(self, x: Float[Tensor, "batch d_in"]) -> SparseCodes:
        return pursue(x, self.W_enc, self.k, self.tolerance)


@final
class PeelCoder(SparseCoder):
    """Matching pursuit with a threshold for each atom (see `gradsae.sae.kernels.peel`).

    Parameters besides: threshold [d_sae] of the inner product, and size [], in which coefficients
    are expected to come.
    """

    name = "peel"

    def __init__(self, d_in: int, d_sae: int, k: int, normalise: Mode = "none") -> None:
        super().__init__(d_in, d_sae, k, normalise)
        self.threshold = nn.Parameter(torch.zeros(d_sae))
        self.size = nn.Parameter(torch.zeros(()))

    def pursue(self, x: Float[Tensor, "batch d_in"]) -> SparseCodes:
        return peel(x, self.W_enc, self.threshold, self.size, self.k)


CODERS: dict[str, type[PursuitCoder] | type[PeelCoder]] = {
    coder.name: coder for coder in (PursuitCoder, PeelCoder)
}


def blank_coder(architecture: dict[str, Any]) -> PursuitCoder | PeelCoder:
    """Return the coder that `sae.json` describes, before its weights are loaded."""
    names = ("d_in", "d_sae", "k", "tolerance", "normalise")
    given = {name: architecture[name] for name in names if architecture.get(name) is not None}
    return CODERS[architecture["gate"]](**given)


def _drop_bias(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Leave out `b_enc`: files of version 0.1 hold one, which never took part."""
    state.pop(f"{prefix}b_enc", None)
