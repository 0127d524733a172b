"""BatchTopK: the k * batch largest latents of a batch; at inference, one threshold for all."""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.about import HIDDEN, About
from gradsae.interfaces import Loss, Progress, Trainer
from gradsae.optim import Optim
from gradsae.sae.dictionary import Pass
from gradsae.sae.kernels.gates.topk import BatchTopKGate
from gradsae.sae.model import SAE
from gradsae.sae.normalise import Mode
from gradsae.trainers.batchwise import Batchwise
from gradsae.trainers.common import fvu, l0, squared_error


@final
@dataclass(frozen=True, kw_only=True)
class BatchTopK(Trainer):
    """BatchTopK autoencoder with AuxK; the trained SAE opens a latent above a fixed threshold.

    Loss: FVU of the batch + aux_coefficient * FVU of the residual (see `AuxK`). Reference: Bussmann
    et al. 2024, https://arxiv.org/abs/2412.06410. `Batchwise` explains the fields of the same names
    and how the method differs from the paper.
    """

    d_sae: int
    k: int | float
    optim: Optim
    tied: bool = False
    normalise: Mode = "unit"
    aux_k: int | None = None
    aux_coefficient: float = 1 / 32
    dead_after: int = 100_000
    threshold_rate: float = 0.01
    batchwise: Batchwise = field(init=False, repr=False, compare=False, metadata=HIDDEN)
    """Made of the fields of its names, which it checks."""

    def __post_init__(self) -> None:
        batchwise = Batchwise(
            d_sae=self.d_sae,
            k=self.k,
            tied=self.tied,
            normalise=self.normalise,
            aux_k=self.aux_k,
            aux_coefficient=self.aux_coefficient,
            dead_after=self.dead_after,
            threshold_rate=self.threshold_rate,
        )
        object.__setattr__(self, "batchwise", batchwise)

    @property
    def name(self) -> str:
        return "batchtopk"

    @property
    def about(self) -> About:
        return About(
            label="BatchTopK",
            family="batchtopk",
            member=0,
            paper="https://arxiv.org/abs/2412.06410",
        )

    @property
    def gate(self) -> BatchTopKGate:
        return self.batchwise.gate

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        return self.batchwise.build(sample, generator)

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        unexplained = fvu(out.x_in, squared_error(out.x_in, out.recon_in))
        aux = self.batchwise.aux.loss(sae, out, out.x_in - out.recon_in.detach())
        parts = {"fvu": unexplained.detach(), "l0": l0(out.codes), "aux": aux.detach()}
        return Loss(unexplained + self.aux_coefficient * aux, parts)

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        self.batchwise.after_step(sae, out)
