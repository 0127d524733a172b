"""Gated: one part of the encoder opens latents, another says how strong they are."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.interfaces import Loss, Progress, Trainer
from gradsae.optim import Optim
from gradsae.sae import kernels
from gradsae.sae.dictionary import Pass
from gradsae.sae.kernels.gates.gated import GatedGate
from gradsae.sae.model import SAE, Architecture
from gradsae.sae.normalise import MODES, Mode
from gradsae.trainers.common import fresh, fvu, l0, mean, risen, squared_error


@final
@dataclass(frozen=True, kw_only=True)
class Gated(Trainer):
    """Gated autoencoder: squared error + l1 * sum of ReLU(gate pre-activation) + squared error of a
    reconstruction from these ReLUs through a frozen copy of the decoder.

    Reference: Rajamanoharan et al. 2024, https://arxiv.org/abs/2404.16014, sections 3.2 and 3.3:
    decoder rows of norm 1, Adam with beta1 = 0, the penalty warmed up, no resampling in the long
    runs of dictionary_learning. Latents whose gate is shut add nothing to any of the three terms,
    so sparse codes are exact. Differs from the paper: inputs at mean squared norm 1, the decoder
    gradient keeps its part parallel to the atoms, and the learning rate is set for short runs.
    """

    d_sae: int
    l1: float
    """Penalty per unit of gate pre-activation, at mean squared input norm 1."""
    optim: Optim
    l1_warmup: float = 0.05
    """Share of all steps over which the penalty rises from 0."""
    tied: bool = False
    normalise: Mode = "unit"

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        checks.number("l1", self.l1, low=0)
        checks.share("l1_warmup", self.l1_warmup)
        checks.flag("tied", self.tied)
        checks.one_of("normalise", self.normalise, MODES)

    @property
    def name(self) -> str:
        return "gated"

    @property
    def about(self) -> About:
        return About(
            label="Gated", family="gated", member=0, paper="https://arxiv.org/abs/2404.16014"
        )

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        arch = Architecture(
            d_in=sample.shape[1],
            d_sae=self.d_sae,
            tied=self.tied,
            normalise=self.normalise,
        )
        return fresh(arch, GatedGate(self.d_sae), sample, generator, mean).sae

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        n, squared = len(out.x_in), squared_error(out.x_in, out.recon_in)
        gates = out.pre.with_values(out.pre.values.relu())
        penalty = gates.values.sum() / n
        frozen = sae.decoder_weights().detach()
        from_gates = kernels.decode(gates, frozen, out.precision) + sae.b_dec.detach()
        aux = squared_error(out.x_in, from_gates) / n
        warm = risen(progress, self.l1_warmup)
        parts = {"fvu": fvu(out.x_in, squared.detach()), "l0": l0(out.codes)}
        parts |= {"l1": penalty.detach(), "aux": aux.detach()}
        return Loss(squared / n + self.l1 * warm * penalty + aux, parts)

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        kernels.unit_rows_(sae.decoder_weights())
