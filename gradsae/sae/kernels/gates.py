"""Gates: which latents open, given the encoder. A gate never sees the loss.

`select` chooses entries and runs without gradient; `activate` turns their pre-activations, by now
with gradient, into codes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, final

from jaxtyping import Float
from torch import Tensor

from gradsae.sae.codes import Codes, DenseCodes
from gradsae.sae.kernels import select
from gradsae.sae.kernels.jump import jump
from gradsae.sae.kernels.peel import peel
from gradsae.sae.kernels.pursuit import pursue


class Magnitude(NamedTuple):
    """What a gated SAE puts out in place of the pre-activation that opens the gate."""

    log_scale: Float[Tensor, " d_sae"]
    bias: Float[Tensor, " d_sae"]


class Encoder(NamedTuple):
    W: Float[Tensor, "d_sae d_in"]
    b: Float[Tensor, " d_sae"]
    threshold: Float[Tensor, " d_sae"] | None = None
    """Only for JumpReLU and peeling."""
    magnitude: Magnitude | None = None
    """Only for Gated."""
    size: Float[Tensor, ""] | None = None
    """Only for peeling: in which latents are expected to come."""


class Gate(ABC):
    @abstractmethod
    def select(self, x: Float[Tensor, "batch d_in"], encoder: Encoder) -> Codes:
        """Return the pre-activations W x + b that may open; every other latent is closed."""

    @abstractmethod
    def activate(self, pre: Codes, encoder: Encoder) -> Codes:
        """Return the codes of selected pre-activations."""


@final
@dataclass(frozen=True, kw_only=True)
class TopKGate(Gate):
    """Keep the k largest pre-activations of each row, then clip at zero."""

    k: int

    def select(self, x: Float[Tensor, "batch d_in"], encoder: Encoder) -> Codes:
        return select.top_k(x, encoder.W, encoder.b, self.k)

    def activate(self, pre: Codes, encoder: Encoder) -> Codes:
        return pre.with_values(pre.values.relu())


@final
@dataclass(frozen=True, kw_only=True)
class BatchTopKGate(Gate):
    """Keep the k * batch largest positive pre-activations of the whole batch.

    Which latents open on a row depends on the rows beside it, so this gate is for training only.
    """

    k: int | float
    """Open latents per row, on average."""

    def select(self, x: Float[Tensor, "batch d_in"], encoder: Encoder) -> Codes:
        return select.top_of_batch(x, encoder.W, encoder.b, max(1, int(self.k * len(x))))

    def activate(self, pre: Codes, encoder: Encoder) -> Codes:
        return pre.with_values(pre.values.relu())


@final
@dataclass(frozen=True, kw_only=True)
class ThresholdGate(Gate):
    """Open where the pre-activation (bias included) is above zero.

    `jump=False` is ReLU: the value is the pre-activation. `jump=True` puts out the pre-activation
    without its bias (GBA paper, section 4: the bias opens the gate but does not shrink the output).
    """

    jump: bool

    def select(self, x: Float[Tensor, "batch d_in"], encoder: Encoder) -> Codes:
        return select.above_zero(x, encoder.W, encoder.b)

    def activate(self, pre: Codes, encoder: Encoder) -> Codes:
        values, b = pre.values, encoder.b.detach()
        if not self.jump:
            return pre.with_values(values.relu())
        return pre.with_values((values - per_entry(b, pre)) * (values > 0))


@final
@dataclass(frozen=True, kw_only=True)
class JumpReLUGate(Gate):
    """Open where the pre-activation is above the latent's threshold, and put it out as it is.

    Entries up to half a bandwidth below are kept with value 0: they carry gradient to the
    threshold (see `gradsae.sae.kernels.jump`).
    """

    bandwidth: float
    """0 for a threshold that is not trained."""
    to_input: bool = False

    def select(self, x: Float[Tensor, "batch d_in"], encoder: Encoder) -> Codes:
        assert encoder.threshold is not None
        lowest = encoder.threshold - self.bandwidth / 2
        above = select.above_zero(x, encoder.W, encoder.b - lowest)
        return above.with_values(above.values + per_entry(lowest, above))

    def activate(self, pre: Codes, encoder: Encoder) -> Codes:
        assert encoder.threshold is not None
        threshold = per_entry(encoder.threshold, pre)
        return pre.with_values(jump(pre.values, threshold, self.bandwidth, self.to_input))


@final
@dataclass(frozen=True, kw_only=True)
class GatedGate(Gate):
    """Open where W x + b is above zero; put out ReLU(exp(log_scale) * W x + bias).

    Reference: Rajamanoharan et al. 2024, https://arxiv.org/abs/2404.16014, section 3.
    """

    def select(self, x: Float[Tensor, "batch d_in"], encoder: Encoder) -> Codes:
        return select.above_zero(x, encoder.W, encoder.b)

    def activate(self, pre: Codes, encoder: Encoder) -> Codes:
        assert encoder.magnitude is not None
        scale, bias = (per_entry(t, pre) for t in encoder.magnitude)
        product = pre.values - per_entry(encoder.b, pre)
        return pre.with_values((scale.exp() * product + bias).relu() * (pre.values > 0))


@final
@dataclass(frozen=True, kw_only=True)
class PursuitGate(Gate):
    """Sparse coding over the rows of W (see `gradsae.sae.kernels.pursuit`); for controls, which are
    not trained. The bias takes no part."""

    k: int
    tolerance: float

    def select(self, x: Float[Tensor, "batch d_in"], encoder: Encoder) -> Codes:
        return pursue(x, encoder.W, self.k, self.tolerance)

    def activate(self, pre: Codes, encoder: Encoder) -> Codes:
        return pre.with_values(pre.values.relu())


@final
@dataclass(frozen=True, kw_only=True)
class PeelGate(Gate):
    """Sparse coding over the rows of W with a threshold for each (see `gradsae.sae.kernels.peel`).

    The bias takes no part. Coefficients get no gradient: they come from least squares, where to
    first order the error does not change with them.
    """

    k: int
    """Most open latents of a row."""

    def select(self, x: Float[Tensor, "batch d_in"], encoder: Encoder) -> Codes:
        assert encoder.threshold is not None and encoder.size is not None
        return peel(x, encoder.W, encoder.threshold, encoder.size, self.k)

    def activate(self, pre: Codes, encoder: Encoder) -> Codes:
        return pre.with_values(pre.values.detach().relu())


def per_entry(of_latents: Float[Tensor, " d_sae"], codes: Codes) -> Float[Tensor, "..."]:
    """Return the number of each stored entry's latent, in the shape of `codes.values`."""
    if isinstance(codes, DenseCodes):
        return of_latents.expand(codes.n_rows, -1)
    return of_latents[codes.latents]
