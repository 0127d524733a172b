"""p-anneal: an l1 penalty that turns step by step into one that counts latents."""

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
from gradsae.sae.codes import Codes
from gradsae.sae.dictionary import Pass
from gradsae.sae.kernels.gates.threshold import ReLUGate
from gradsae.sae.model import SAE, Architecture
from gradsae.sae.normalise import MODES, Mode
from gradsae.trainers.common import fresh, fvu, l0, mean, risen, squared_error

RECENT = 10
"""Batches over which the penalty is averaged when its weight is rescaled (dictionary_learning)."""
FLOOR = 1e-6
"""Codes below it count as this large: the slope of f^p has no bound at 0."""


@final
@dataclass(frozen=True, kw_only=True)
class PAnneal(Trainer):
    """ReLU autoencoder: squared error + l1 * weight * sum_i f_i^p, with p falling from 1.

    Each time p falls, `weight` is rescaled so that the penalty of the last batches would have been
    the same. Reference: Karvonen et al. 2024, https://arxiv.org/abs/2408.00113, section 4:
    decoder rows of norm 1, p from 1 to .2 (dictionary_learning's demo: in 10 falls, from step
    10,000 on). Differs: inputs at mean squared norm 1, codes below FLOOR have no gradient, the
    decoder gradient keeps its part parallel to the atoms, and the learning rate is set for short
    runs.
    """

    d_sae: int
    l1: float
    """Weight of the penalty at p = 1, at mean squared input norm 1."""
    optim: Optim
    p_end: float = 0.2
    n_falls: int = 10
    anneal_start: float = 0.1
    """Share of all steps before p falls for the first time; p_end holds for the last part."""
    l1_warmup: float = 0.05
    """Share of all steps over which the penalty rises from 0."""
    tied: bool = False
    normalise: Mode = "unit"

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        checks.whole("n_falls", self.n_falls, 1)
        checks.number("l1", self.l1, low=0)
        checks.number("p_end", self.p_end, above=0)
        for name in ("p_end", "anneal_start", "l1_warmup"):
            checks.share(name, getattr(self, name))
        checks.flag("tied", self.tied)
        checks.one_of("normalise", self.normalise, MODES)

    @property
    def name(self) -> str:
        return "panneal"

    @property
    def about(self) -> About:
        return About(
            label="p-anneal", family="l1", member=1, paper="https://arxiv.org/abs/2408.00113"
        )

    def falls(self, progress: Progress) -> int:
        """Return how often p has fallen at this step, from 0 to n_falls."""
        start = self.anneal_start * progress.n_steps
        if progress.step < start:
            return 0
        share_done = (progress.step - start) / max(1.0, progress.n_steps - start)
        return min(self.n_falls, 1 + int(share_done * self.n_falls))

    def p(self, falls: int) -> float:
        return 1.0 + (self.p_end - 1.0) * falls / self.n_falls

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        arch = Architecture(
            d_in=sample.shape[1],
            d_sae=self.d_sae,
            tied=self.tied,
            normalise=self.normalise,
        )
        sae = fresh(arch, ReLUGate(), sample, generator, mean).sae
        sae.register_buffer("state_weight", torch.ones(()))
        sae.register_buffer("state_recent", torch.zeros(2, RECENT))
        return sae

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        squared = squared_error(out.x_in, out.recon_in)
        penalty = power_sum(out.codes, self.p(self.falls(progress)))
        warm = risen(progress, self.l1_warmup)
        weight = self.l1 * warm * sae.get_buffer("state_weight")
        parts = {"fvu": fvu(out.x_in, squared.detach()), "l0": l0(out.codes)}
        parts |= {"penalty": penalty.detach()}
        return Loss(squared / out.codes.n_rows + weight * penalty, parts)

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        kernels.unit_rows_(sae.decoder_weights())
        now, later = self.falls(progress), self.falls(progress._replace(step=progress.step + 1))
        if now == self.n_falls:
            return
        recent = sae.get_buffer("state_recent")
        for row, falls in enumerate((now, max(now + 1, later))):
            recent[row, progress.step % RECENT] = power_sum(out.codes, self.p(falls))
        if later > now:
            before, after = recent.mean(1)
            ratio = torch.where(after > 0, before / after, 1.0)
            sae.get_buffer("state_weight").mul_(ratio)
            recent.zero_()


def power_sum(codes: Codes, p: float) -> Float[Tensor, ""]:
    """Return the mean over rows of the sum of f^p over open latents."""
    f = codes.values
    return (f.clamp_min(FLOOR).pow(p) * (f > 0)).sum() / codes.n_rows
