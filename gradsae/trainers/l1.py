"""l1: ReLU codes with a penalty on their size, weighted by the decoder norms."""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import LATER, About
from gradsae.interfaces import Loss, Progress, Trainer
from gradsae.optim import Optim
from gradsae.sae.dictionary import Pass
from gradsae.sae.directions import random_directions
from gradsae.sae.kernels.gates.threshold import ReLUGate
from gradsae.sae.model import SAE, Architecture
from gradsae.sae.normalise import MODES, Mode, fit_normaliser
from gradsae.trainers.common import (
    fvu,
    l0,
    risen,
    squared_error,
    start_from,
)


@final
@dataclass(frozen=True, kw_only=True)
class L1(Trainer):
    """ReLU autoencoder: ||x - recon||^2 + l1 * sum_i f_i ||W_dec_i||, decoder norms free.

    Reference: Anthropic, Circuits Updates April 2024 ("Update on how we train SAEs"): inputs with
    mean squared norm d_in, encoder = decoder transposed at the start with norm 0.1, zero biases, no
    pre-encoder bias, l1 = 5, its linear warm-up over the first 5 % of steps, rate decay over the
    last 20 %, gradient norm clipped to 1. Differs: the learning rate is set for short runs.
    """

    d_sae: int
    l1: float
    """Penalty per unit of decoder-weighted code, inputs at mean squared norm d_in."""
    optim: Optim
    l1_warmup: float = 0.05
    """Share of all steps over which the penalty rises from 0."""
    tied: bool = False
    normalise: Mode = "sqrt_d"
    init_norm: float = 0.1
    centre: bool = field(default=False, metadata=LATER)
    """Subtract the sample's mean before anything else."""

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        checks.number("l1", self.l1, low=0)
        checks.share("l1_warmup", self.l1_warmup)
        checks.number("init_norm", self.init_norm, above=0)
        for name in ("tied", "centre"):
            checks.flag(name, getattr(self, name))
        checks.one_of("normalise", self.normalise, MODES)

    @property
    def name(self) -> str:
        return "l1"

    @property
    def about(self) -> About:
        return About(label="L1", family="l1", member=0)

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        d_in = sample.shape[1]
        sae = SAE(
            Architecture(
                d_in=d_in,
                d_sae=self.d_sae,
                tied=self.tied,
                pre_bias=False,
                normalise=self.normalise,
            ),
            ReLUGate(),
        )
        sae.set_normaliser(fit_normaliser(sample, self.normalise, centre=self.centre))
        directions = self.init_norm * random_directions(self.d_sae, d_in, generator)
        start_from(sae, directions)
        return sae

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        squared = squared_error(out.x_in, out.recon_in)
        penalty = out.codes.weighted_sum(sae.decoder_weights().norm(dim=1)).mean()
        warm = risen(progress, self.l1_warmup)
        unexplained = fvu(out.x_in, squared.detach())
        parts = {"fvu": unexplained, "l0": l0(out.codes), "l1": penalty.detach()}
        return Loss(squared / out.codes.n_rows + self.l1 * warm * penalty, parts)

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        """Do nothing: decoder norms are free, because the penalty counts them."""
