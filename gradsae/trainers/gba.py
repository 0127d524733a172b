"""GBA: biases move towards target firing rates, group by group; no k and no l1 weight to tune."""

from dataclasses import dataclass, field
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import HIDDEN, LATER, About
from gradsae.interfaces import KnownSource, Loss, Progress, Trainer
from gradsae.optim import Optim
from gradsae.sae import kernels
from gradsae.sae.dictionary import Pass
from gradsae.sae.directions import random_directions
from gradsae.sae.kernels.gates.threshold import JumpGate, ReLUGate
from gradsae.sae.model import SAE, Architecture
from gradsae.sae.normalise import MODES, Mode, fit_normaliser
from gradsae.trainers.bias_rule import BiasRule, Rates
from gradsae.trainers.common import fvu, l0, squared_error


@final
@dataclass(frozen=True, kw_only=True)
class GBA(Trainer):
    """Group Bias Adaptation; `groups=1` is its one-group case, BA.

    Loss: half the squared error, no sparsity term. Biases follow `BiasRule`, whose fields of the
    same names are explained there.
    Reference: Chen et al. 2025, https://arxiv.org/abs/2506.14002, Algorithm 1. The paper leaves
    open, or states differently in its two versions, what the fields below name; the defaults are
    the published recipe. The recipe that recovers features here is conf/trainer/gba.yaml.
    """

    d_sae: int
    optim: Optim
    variant: Literal["v1", "iclr"] = "v1"
    """Version of the paper whose target rates are used where `htf`, `ltf` are None."""
    groups: int = 10
    htf: float | None = None
    """Target rate of the first group, the highest; with groups=1 the only one."""
    ltf: float | None = None
    """Target rate of the last group, the lowest. Rates between are geometric."""
    activation: Literal["jump", "relu"] = "jump"
    """Open latents put out w.x (jump) or w.x + b (relu)."""
    tied: bool = True
    normalise: Mode = "token"
    centre: bool = False
    """Subtract the training mean before normalising."""
    scale_init: int | float = 1.0
    """Output scale a_m at the start. Small values decouple the latents (Theorem 6.1: a -> 0)."""
    train_scale: bool = True
    bias_init: Literal["zero", "quantile"] = "zero"
    """quantile: each latent starts at its target rate on the sample (our extension)."""
    bias_every: int = 50
    gamma_up: float = 0.01
    gamma_down: float = 0.01
    dead_below: float = 1e-6
    """Firing rate under which a latent counts as silent."""
    bias_low: float = -1.0
    bias_high: float = 0.0
    freeze_share: float = 0.0
    """Share of all steps, at the end, in which biases stay (our extension)."""
    unit_enc: bool = True
    """Project encoder rows to norm 1 after each step."""
    unit_dec: bool = True
    """Likewise decoder rows, where they are not tied."""

    rates: Rates = field(default=None, metadata=LATER)
    rates_factor: float = field(default=1.0, metadata=LATER)
    truth: KnownSource | None = field(default=None, metadata=HIDDEN, repr=False)
    """The source, where rates=from_source."""
    rule: BiasRule = field(init=False, repr=False, compare=False, metadata=HIDDEN)
    """Made of the fields of its names, which it checks."""

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        checks.whole(f"groups (with d_sae={self.d_sae})", self.groups, 1, self.d_sae)
        checks.one_of("activation", self.activation, ("jump", "relu"))
        checks.one_of("normalise", self.normalise, MODES)
        checks.number("scale_init", self.scale_init, above=0)
        for name in ("tied", "centre", "train_scale", "unit_enc", "unit_dec"):
            checks.flag(name, getattr(self, name))
        rule = BiasRule(
            variant=self.variant,
            groups=self.groups,
            htf=self.htf,
            ltf=self.ltf,
            rates=self.rates,
            rates_factor=self.rates_factor,
            bias_init=self.bias_init,
            bias_every=self.bias_every,
            gamma_up=self.gamma_up,
            gamma_down=self.gamma_down,
            dead_below=self.dead_below,
            bias_low=self.bias_low,
            bias_high=self.bias_high,
            freeze_share=self.freeze_share,
        )
        object.__setattr__(self, "rule", rule)

    @property
    def name(self) -> str:
        if self.needs_truth:
            return "gba_oracle"
        return "ba" if self.groups == 1 else "gba"

    @property
    def about(self) -> About:
        label, member = "GBA", 0
        if self.needs_truth:
            label, member = "GBA, true rates", 1
        elif self.groups == 1:
            label, member = "BA", 2
        return About(
            label=label,
            family="bias_rule",
            member=member,
            paper="https://arxiv.org/abs/2506.14002",
            is_control=self.needs_truth,
            needs_truth=self.needs_truth,
        )

    @property
    def needs_truth(self) -> bool:
        return self.rule.is_oracle

    def targets(self) -> Float[Tensor, " d_sae"]:
        """Return the target rate of each latent."""
        return self.rule.targets(self.d_sae, self.truth)

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        d_in = sample.shape[1]
        arch = Architecture(
            d_in=d_in,
            d_sae=self.d_sae,
            tied=self.tied,
            scaled=True,
            normalise=self.normalise,
        )
        sae = SAE(arch, JumpGate() if self.activation == "jump" else ReLUGate())
        normaliser = fit_normaliser(sample, self.normalise, centre=self.centre)
        sae.set_normaliser(normaliser)
        x, targets = normaliser.apply(sample).x, self.targets()
        assert sae.output_scale is not None
        with torch.no_grad():
            sae.W_enc.copy_(random_directions(self.d_sae, d_in, generator))
            if sae.W_dec is not None:
                sae.W_dec.copy_(sae.W_enc)
            sae.b_dec.copy_(x.mean(0))
            sae.output_scale.fill_(self.scale_init)
            sae.b_enc.copy_(self.rule.start(x - sae.b_dec, sae.W_enc, targets))
        sae.b_enc.requires_grad_(False)  # moved by rate, never by gradient
        sae.output_scale.requires_grad_(self.train_scale)
        self.rule.prepare(sae, targets)
        return sae

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        squared = squared_error(out.x_in, out.recon_in)
        parts = {"fvu": fvu(out.x_in, squared.detach()), "l0": l0(out.codes)}
        return Loss(0.5 * squared / out.codes.n_rows, parts)

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        if self.unit_enc:
            kernels.unit_rows_(sae.W_enc)
        if self.unit_dec and sae.W_dec is not None:
            kernels.unit_rows_(sae.W_dec)
        moved = self.rule.step(sae, out.codes, self._peak(sae, out), sae.b_enc, progress)
        if moved is not None:
            sae.b_enc.copy_(moved)

    def _peak(self, sae: SAE, out: Pass) -> Float[Tensor, " d_sae"]:
        """Return the largest y = u + b of each latent in this batch, at least 0."""
        peak = out.codes.peak()
        if self.activation == "jump":  # the stored value lacks the bias; the rule wants y = u + b
            peak = (peak + sae.b_enc).relu()
        return peak
