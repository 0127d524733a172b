"""The common part of BatchTopK and Matryoshka: latents compete over a whole batch, dead ones are
revived, and the trained SAE has one threshold for all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.sae import kernels
from gradsae.sae.codes import Codes
from gradsae.sae.dictionary import Pass
from gradsae.sae.kernels.gates.jumprelu import JumpReLUGate
from gradsae.sae.kernels.gates.topk import BatchTopKGate
from gradsae.sae.model import SAE, Architecture
from gradsae.sae.normalise import MODES, Mode
from gradsae.trainers.auxk import AuxK
from gradsae.trainers.common import fresh, geometric_median

START_ROWS = 1024
"""Rows of the sample from which the first threshold is taken."""


@final
@dataclass(frozen=True, kw_only=True)
class Batchwise:
    """A part of methods whose training steps keep the k * batch largest pre-activations.

    Reference: Bussmann et al. 2024, https://arxiv.org/abs/2412.06410, sections 3 and A. The SAE,
    trained or not, opens where the pre-activation is above the running mean of the least open
    value, so that a row does not depend on its neighbours. Differs from the paper: one scalar
    normalises the inputs (its code standardises each row), and the threshold starts where k latents
    open on the sample.
    """

    d_sae: int
    k: int | float
    """Open latents per sample, on average."""
    tied: bool
    normalise: Mode
    aux_k: int | None
    """None is d_in / 2 (dictionary_learning; the paper's code: 512)."""
    aux_coefficient: float
    """1/32 in Bussmann et al. 2024, section A."""
    dead_after: int
    """Samples without firing after which a latent counts as dead (dictionary_learning: 10 M)."""
    threshold_rate: float
    """Weight of the newest batch in the running threshold (SAELens: .01; dictionary_learning:
    .001)."""
    ista_steps: int = 0
    ista_rate: float = 0.25
    aux: AuxK = field(init=False, repr=False, compare=False)
    """Made of the fields of its names, which it checks."""

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        checks.number("k", self.k, above=0)
        if self.k > self.d_sae:
            raise ValueError(f"k must be at most d_sae={self.d_sae}, got {self.k!r}")
        checks.flag("tied", self.tied)
        checks.one_of("normalise", self.normalise, MODES)
        checks.share("threshold_rate", self.threshold_rate)
        checks.whole("ista_steps", self.ista_steps, 0)
        checks.number("ista_rate", self.ista_rate, low=0)
        aux = AuxK(
            aux_k=self.aux_k, aux_coefficient=self.aux_coefficient, dead_after=self.dead_after
        )
        object.__setattr__(self, "aux", aux)

    @property
    def gate(self) -> BatchTopKGate:
        return BatchTopKGate(k=self.k)

    @torch.no_grad()
    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        """Return an untrained SAE: encoder = decoder in random directions, the geometric median as
        b_dec, and the threshold at which k latents open on a row of the sample, on average."""
        arch = Architecture(
            d_in=sample.shape[1],
            d_sae=self.d_sae,
            tied=self.tied,
            normalise=self.normalise,
            ista_steps=self.ista_steps,
            ista_rate=self.ista_rate,
        )
        gate = JumpReLUGate(self.d_sae, bandwidth=0.0)
        sae, x = fresh(arch, gate, sample, generator, geometric_median)
        encoded = sae.encode_in(x[:START_ROWS], gate=self.gate)
        self._follow(sae, (*encoded.early, encoded.codes), rate=1.0)
        self.aux.prepare(sae)
        return sae

    def after_step(self, sae: SAE, out: Pass) -> None:
        kernels.unit_rows_(sae.decoder_weights())
        self.aux.count(sae, out)
        self._follow(sae, (*out.early, out.codes), self.threshold_rate)

    def _follow(self, sae: SAE, looks: Sequence[Codes], rate: float) -> None:
        """Move the threshold of each look of the encoder; no threshold follows the gradient."""
        for gate, codes in zip((*sae.early, sae.gate), looks, strict=True):
            assert isinstance(gate, JumpReLUGate)
            follow_threshold(gate.threshold.requires_grad_(False), codes, rate)


def follow_threshold(threshold: Float[Tensor, " d_sae"], codes: Codes, rate: float) -> None:
    """Move the threshold of all latents towards the least open value of a batch."""
    values = codes.values
    least = torch.where(values > 0, values, torch.inf).amin() if values.numel() else torch.inf
    least = torch.as_tensor(least).to(threshold)
    moved = threshold.lerp(least, rate)
    threshold.copy_(torch.where(least.isfinite(), moved, threshold))
