"""BatchTopK: the k * batch largest latents of a batch; at inference, one threshold for all."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import kernels
from gradsae.interfaces import Loss, Progress, Trainer
from gradsae.kernels.gates import BatchTopKGate
from gradsae.normalise import Mode
from gradsae.optim import Optim
from gradsae.sae import SAE, Pass
from gradsae.trainers.auxk import AuxK
from gradsae.trainers.common import fvu, l0, squared_error
from gradsae.trainers.threshold import (
    build_with_threshold,
    check_batch_top_k,
    follow_threshold,
)


@final
@dataclass(frozen=True, kw_only=True)
class BatchTopK(Trainer):
    """BatchTopK autoencoder with AuxK; the trained SAE opens a latent above a fixed threshold.

    Loss: FVU of the batch + aux_coefficient * FVU of the residual (see `AuxK`). Reference: Bussmann
    et al. 2024, https://arxiv.org/abs/2412.06410, sections 3 and A. Training steps keep the
    k * batch largest positive pre-activations (`gate`); the SAE itself, trained or not, opens where
    the pre-activation is above the running mean of the least open value, so that a row does not
    depend on its neighbours. Differs from the paper: one scalar normalises the inputs (its code
    standardises each row), and the threshold starts where k latents open on the sample.
    """

    d_sae: int
    k: int | float
    """Open latents per sample, on average."""
    optim: Optim
    tied: bool = False
    normalise: Mode = "unit"
    aux_k: int | None = None
    """None is d_in / 2 (dictionary_learning; the paper's code: 512)."""
    aux_coefficient: float = 1 / 32
    """Bussmann et al. 2024, section A."""
    dead_after: int = 100_000
    """Samples without firing after which a latent counts as dead (dictionary_learning: 10 M)."""
    threshold_rate: float = 0.01
    """Weight of the newest batch in the running threshold (SAELens; dictionary_learning: .001)."""

    def __post_init__(self) -> None:
        check_batch_top_k(
            d_sae=self.d_sae,
            k=self.k,
            tied=self.tied,
            normalise=self.normalise,
            threshold_rate=self.threshold_rate,
        )
        _ = self.aux  # checks its own fields

    @property
    def name(self) -> str:
        return "batchtopk"

    @property
    def gate(self) -> BatchTopKGate:
        return BatchTopKGate(k=self.k)

    @property
    def aux(self) -> AuxK:
        return AuxK(
            aux_k=self.aux_k, aux_coefficient=self.aux_coefficient, dead_after=self.dead_after
        )

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        sae = build_with_threshold(
            sample,
            generator,
            d_sae=self.d_sae,
            gate=self.gate,
            tied=self.tied,
            normalise=self.normalise,
        )
        self.aux.prepare(sae)
        return sae

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        left = fvu(out.x_in, squared_error(out.x_in, out.recon_in))
        aux = self.aux.loss(sae, out, out.recon_in)
        parts = {"fvu": left.detach(), "l0": l0(out.codes), "aux": aux.detach()}
        return Loss(left + self.aux_coefficient * aux, parts)

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        kernels.unit_rows_(sae.written())
        self.aux.count(sae, out)
        follow_threshold(sae, out.codes, self.threshold_rate)
