"""TopK: keep the k largest latents of each sample; an auxiliary loss revives dead ones."""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import HIDDEN, LATER, About
from gradsae.interfaces import KnownSource, Loss, Progress, Trainer
from gradsae.optim import Optim
from gradsae.sae import kernels
from gradsae.sae.dictionary import Pass
from gradsae.sae.kernels.gates.topk import TopKGate
from gradsae.sae.model import SAE, Architecture
from gradsae.sae.normalise import MODES, Mode
from gradsae.trainers.auxk import AuxK
from gradsae.trainers.bias_rule import BiasRule
from gradsae.trainers.common import fresh, fvu, geometric_median, l0, squared_error


@final
@dataclass(frozen=True, kw_only=True)
class TopK(Trainer):
    """TopK autoencoder with AuxK.

    Loss: FVU of the batch + aux_coefficient * FVU of the residual, as rebuilt by the `aux_k`
    largest of the dead latents. Reference: Gao et al. 2024, https://arxiv.org/abs/2406.04093,
    sections 2.3 and A.2. Differs from the paper: one scalar normalises the inputs (the paper
    standardises each token), the decoder gradient keeps its part parallel to the atoms, and there
    is no weight average.
    """

    d_sae: int
    k: int
    optim: Optim
    tied: bool = False
    normalise: Mode = "unit"
    aux_k: int | None = None
    """Dead latents that explain the residual; None is d_in / 2 (section A.2)."""
    aux_coefficient: float = 1 / 32
    """0 switches AuxK off."""
    dead_after: int = 100_000
    """Samples without firing after which a latent counts as dead (the paper: 10 M tokens)."""

    rule: BiasRule | None = field(default=None, metadata=LATER)
    """GBA's rule moves b_enc, in place of the gradient."""
    truth: KnownSource | None = field(default=None, metadata=HIDDEN, repr=False)
    """The source, where the rule takes its rates from it."""
    aux: AuxK = field(init=False, repr=False, compare=False, metadata=HIDDEN)
    """Made of the fields of its names, which it checks."""

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        checks.whole(f"k (with d_sae={self.d_sae})", self.k, 1, self.d_sae)
        checks.flag("tied", self.tied)
        checks.one_of("normalise", self.normalise, MODES)
        aux = AuxK(
            aux_k=self.aux_k, aux_coefficient=self.aux_coefficient, dead_after=self.dead_after
        )
        object.__setattr__(self, "aux", aux)

    @property
    def name(self) -> str:
        return "topk" if self.rule is None else "topk_rule"

    @property
    def about(self) -> About:
        paper = "https://arxiv.org/abs/2406.04093"
        if self.rule is not None:
            return About(label="TopK, GBA's rule", family="bias_rule", member=3, paper=paper)
        return About(label="TopK", family="topk", member=0, paper=paper)

    @property
    def needs_truth(self) -> bool:
        return self.rule is not None and self.rule.is_oracle

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        arch = Architecture(
            d_in=sample.shape[1],
            d_sae=self.d_sae,
            tied=self.tied,
            normalise=self.normalise,
        )
        sae, x = fresh(arch, TopKGate(k=self.k), sample, generator, geometric_median)
        if self.rule is not None:
            sae.b_enc.requires_grad_(False)
            targets = self.rule.targets(self.d_sae, self.truth)
            with torch.no_grad():
                sae.b_enc.copy_(self.rule.start(x - sae.b_dec, sae.W_enc, targets))
            self.rule.prepare(sae, targets)
        self.aux.prepare(sae)
        return sae

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        unexplained = fvu(out.x_in, squared_error(out.x_in, out.recon_in))
        aux = self.aux.loss(sae, out, out.x_in - out.recon_in.detach())
        parts = {"fvu": unexplained.detach(), "l0": l0(out.codes), "aux": aux.detach()}
        return Loss(unexplained + self.aux_coefficient * aux, parts)

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        kernels.unit_rows_(sae.decoder_weights())
        self.aux.count(sae, out)
        if self.rule is not None:
            moved = self.rule.step(sae, out.codes, out.codes.peak(), sae.b_enc, progress)
            if moved is not None:
                sae.b_enc.copy_(moved)
