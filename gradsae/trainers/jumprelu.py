"""JumpReLU: a learned threshold for each latent, trained through pseudo-derivatives."""

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
from gradsae.sae.kernels.gates.gate import per_entry
from gradsae.sae.kernels.gates.jumprelu import JumpReLUGate
from gradsae.sae.kernels.jump import step
from gradsae.sae.model import SAE, Architecture
from gradsae.sae.normalise import MODES, Mode
from gradsae.trainers.bias_rule import BiasRule
from gradsae.trainers.common import fresh, fvu, l0, mean, risen, squared_error


@final
@dataclass(frozen=True, kw_only=True)
class JumpReLU(Trainer):
    """JumpReLU autoencoder: squared error + coefficient * penalty.

    penalty=step: the number of open latents. Reference: Rajamanoharan et al. 2024,
    https://arxiv.org/abs/2407.14435, sections 3 and 4: inputs at mean squared norm 1, thresholds
    and bandwidth .001, decoder rows of norm 1, Adam with beta1 = 0, the penalty warmed up. Differs
    from the paper: the threshold itself is trained and kept at 0 or more (the paper trains its
    logarithm), the decoder gradient keeps its part parallel to the atoms, and the learning rate is
    set for short runs.

    penalty=tanh: sum of tanh(tanh_scale * f_i ||W_dec_i||). Reference: Anthropic, January 2025,
    https://transformer-circuits.pub/2025/january-update, which also sends pseudo-derivatives to the
    pre-activations (`to_input`); its values are in conf/trainer/jumprelu_tanh.yaml. Differs: its
    loss on the pre-activations of closed latents (weight 3e-6, against dead latents) is left out,
    since codes are sparse here, and so is its starting point.
    """

    d_sae: int
    coefficient: float
    """Weight of the penalty, per latent and sample."""
    optim: Optim
    penalty: Literal["step", "tanh"] = "step"
    tanh_scale: float = 4.0
    bandwidth: float = 0.001
    threshold: float = 0.001
    """Of every latent at the start, in the SAE's own units."""
    to_input: bool = False
    warmup: float = 0.1
    """Share of all steps over which the penalty rises from 0."""
    unit_dec: bool = True
    """Project decoder rows to norm 1 after each step."""
    tied: bool = False
    pre_bias: bool = False
    """Subtract b_dec from the input."""
    normalise: Mode = "unit"
    centre: bool = field(default=False, metadata=LATER)
    """Subtract the sample's mean before anything else."""

    rule: BiasRule | None = field(default=None, metadata=LATER)
    """GBA's rule moves the thresholds (its bias is minus the threshold), in place of the gradient;
    coefficient and bandwidth must then be 0."""
    truth: KnownSource | None = field(default=None, metadata=HIDDEN, repr=False)
    """The source, where the rule takes its rates from it."""

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        checks.number("coefficient", self.coefficient, low=0)
        checks.one_of("penalty", self.penalty, ("step", "tanh"))
        checks.share("warmup", self.warmup)
        checks.number("threshold", self.threshold, low=0)
        checks.one_of("normalise", self.normalise, MODES)
        checks.number("tanh_scale", self.tanh_scale, above=0)
        if self.rule is None:
            checks.number("bandwidth", self.bandwidth, above=0)
        elif self.coefficient != 0 or self.bandwidth != 0:
            raise ValueError(
                "with a rule, the thresholds are not trained: coefficient and bandwidth must be 0, "
                f"got {self.coefficient!r} and {self.bandwidth!r}"
            )
        for name in ("to_input", "unit_dec", "tied", "pre_bias", "centre"):
            checks.flag(name, getattr(self, name))

    @property
    def needs_truth(self) -> bool:
        return self.rule is not None and self.rule.is_oracle

    @property
    def name(self) -> str:
        if self.rule is not None:
            return "jumprelu_rule"
        return "jumprelu" if self.penalty == "step" else "jumprelu_tanh"

    @property
    def about(self) -> About:
        paper = "https://arxiv.org/abs/2407.14435"
        if self.rule is not None:
            return About(label="JumpReLU, GBA's rule", family="bias_rule", member=4, paper=paper)
        if self.penalty == "tanh":
            paper = "https://transformer-circuits.pub/2025/january-update"
            return About(label="JumpReLU (tanh)", family="jumprelu", member=1, paper=paper)
        return About(label="JumpReLU", family="jumprelu", member=0, paper=paper)

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        arch = Architecture(
            d_in=sample.shape[1],
            d_sae=self.d_sae,
            tied=self.tied,
            pre_bias=self.pre_bias,
            normalise=self.normalise,
        )
        gate = JumpReLUGate(self.d_sae, bandwidth=self.bandwidth, to_input=self.to_input)
        sae, x = fresh(arch, gate, sample, generator, mean, subtract_mean=self.centre)
        with torch.no_grad():
            gate.threshold.fill_(self.threshold)
            if self.rule is not None:
                gate.threshold.requires_grad_(False)
                targets = self.rule.targets(self.d_sae, self.truth)
                gate_input = x - sae.b_dec if self.pre_bias else x
                gate.threshold.copy_(-self.rule.start(gate_input, sae.W_enc, targets))
                self.rule.prepare(sae, targets)
        return sae

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        squared = squared_error(out.x_in, out.recon_in)
        unexplained = fvu(out.x_in, squared.detach())
        if self.rule is not None:
            return Loss(squared / out.codes.n_rows, {"fvu": unexplained, "l0": l0(out.codes)})
        penalty = self._penalty(sae, out) / out.codes.n_rows
        warm = risen(progress, self.warmup)
        parts = {"fvu": unexplained, "l0": l0(out.codes), "penalty": penalty.detach()}
        return Loss(squared / out.codes.n_rows + self.coefficient * warm * penalty, parts)

    def _penalty(self, sae: SAE, out: Pass) -> Float[Tensor, ""]:
        if self.penalty == "tanh":
            norms = per_entry(sae.decoder_weights().norm(dim=1), out.codes)
            return (self.tanh_scale * out.codes.values * norms).tanh().sum()
        threshold = per_entry(sae.gate_as(JumpReLUGate).threshold, out.pre)
        return step(out.pre.values, threshold, self.bandwidth, self.to_input).sum()

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        threshold = sae.gate_as(JumpReLUGate).threshold
        if self.rule is not None:
            peak = (out.codes.peak() - threshold).relu()
            moved = self.rule.step(sae, out.codes, peak, -threshold, progress)
            if moved is not None:
                threshold.copy_(-moved)
        threshold.clamp_min_(0.0)
        if self.unit_dec:
            kernels.unit_rows_(sae.decoder_weights())
