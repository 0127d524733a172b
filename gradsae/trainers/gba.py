"""GBA: biases move towards target firing rates, group by group; no k and no l1 weight to tune."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks, kernels
from gradsae.interfaces import Loss, Progress, Trainer
from gradsae.normalise import MODES, Mode, fit_normaliser
from gradsae.optim import Optim
from gradsae.sae import SAE, Architecture, Pass
from gradsae.trainers.common import fvu, l0, random_directions

TARGETS = {"v1": (0.1, 0.001), "iclr": (0.5, 0.001)}
"""Highest and lowest target rate of each version of the paper."""


@final
@dataclass(frozen=True, kw_only=True)
class GBA(Trainer):
    """Group Bias Adaptation; `groups=1` is its one-group case, BA.

    Loss: half the squared error, no sparsity term. Every `bias_every` steps, a latent that fired
    above its group's target rate gets a lower bias, a silent one a higher bias.
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
    scale_init: float = 1.0
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

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        checks.whole(f"groups (with d_sae={self.d_sae})", self.groups, 1, self.d_sae)
        checks.whole("bias_every", self.bias_every, 1)
        checks.one_of("variant", self.variant, tuple(TARGETS))
        checks.one_of("activation", self.activation, ("jump", "relu"))
        checks.one_of("bias_init", self.bias_init, ("zero", "quantile"))
        checks.one_of("normalise", self.normalise, MODES)
        checks.share("freeze_share", self.freeze_share)
        for name in ("scale_init", "gamma_up", "gamma_down", "dead_below"):
            checks.number(name, getattr(self, name), above=0)
        for name in ("tied", "centre", "train_scale", "unit_enc", "unit_dec"):
            checks.flag(name, getattr(self, name))
        high, low = self.rates_range()
        if not 0 < low <= high <= 1:
            raise ValueError(f"need 0 < ltf <= htf <= 1, got ltf={low}, htf={high}")
        if not self.bias_low < self.bias_high <= 0:
            raise ValueError(
                f"need bias_low < bias_high <= 0, got {self.bias_low}, {self.bias_high}"
            )

    @property
    def name(self) -> str:
        return "ba" if self.groups == 1 else "gba"

    def rates_range(self) -> tuple[float, float]:
        high, low = TARGETS[self.variant]
        high = high if self.htf is None else self.htf
        low = low if self.ltf is None else self.ltf
        return high, min(low, high) if self.ltf is None else low

    def group(self) -> Int[Tensor, " d_sae"]:
        """Return the group of each latent; groups are equal in size up to one."""
        return torch.arange(self.d_sae) * self.groups // self.d_sae

    def targets(self) -> Float[Tensor, " d_sae"]:
        """Return the target rate of each latent: p_k = htf (ltf / htf)^((k - 1) / (K - 1))."""
        high, low = self.rates_range()
        return high * (low / high) ** (self.group() / max(1, self.groups - 1))

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        d_in = sample.shape[1]
        arch = Architecture(
            d_in=d_in,
            d_sae=self.d_sae,
            gate="jump" if self.activation == "jump" else "relu",
            tied=self.tied,
            scaled=True,
            normalise=self.normalise,
        )
        sae = SAE(arch)
        normaliser = fit_normaliser(sample, self.normalise, centre=self.centre)
        sae.set_normaliser(normaliser)
        x = normaliser.apply(sample).x
        assert sae.output_scale is not None
        with torch.no_grad():
            sae.W_enc.copy_(random_directions(self.d_sae, d_in, generator))
            if sae.W_dec is not None:
                sae.W_dec.copy_(sae.W_enc)
            sae.b_dec.copy_(x.mean(0))
            sae.output_scale.fill_(self.scale_init)
            if self.bias_init == "quantile":
                sae.b_enc.copy_(self._quantile_biases(sae, x))
        sae.b_enc.requires_grad_(False)  # moved by rate, never by gradient
        sae.output_scale.requires_grad_(self.train_scale)
        sae.register_buffer("state_rows", torch.zeros((), dtype=torch.int64))
        sae.register_buffer("state_fired", torch.zeros(self.d_sae, dtype=torch.int64))
        sae.register_buffer("state_peak", torch.zeros(self.d_sae))
        return sae

    def _quantile_biases(self, sae: SAE, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, " d_sae"]:
        """Return the biases at which each latent fires at its target rate on `x`."""
        targets, biases = self.targets(), []
        for rows, rates in zip(sae.W_enc.split(1024), targets.split(1024), strict=True):
            u = ((x - sae.b_dec) @ rows.mT).sort(dim=0, descending=True).values
            rank = (rates * len(x)).round().long().clamp(1, len(x)) - 1
            biases.append(-u.gather(0, rank[None])[0])
        return torch.cat(biases).clamp(self.bias_low, self.bias_high)

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        error = out.x_in - out.recon_in
        left = fvu(out.x_in, error.detach())
        return Loss(0.5 * error.square().sum() / len(error), {"fvu": left, "l0": l0(out.codes)})

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        if self.unit_enc:
            kernels.unit_rows_(sae.W_enc)
        if self.unit_dec and sae.W_dec is not None:
            kernels.unit_rows_(sae.W_dec)
        self._count(sae, out)
        frozen = progress.step >= progress.n_steps * (1 - self.freeze_share)
        if (progress.step + 1) % self.bias_every == 0:
            if not frozen:
                self._adapt(sae)
            for name in ("state_rows", "state_fired", "state_peak"):
                sae.get_buffer(name).zero_()

    def _count(self, sae: SAE, out: Pass) -> None:
        """Keep the counts and maxima that the bias step needs: O(d_sae), no buffer of samples."""
        sae.get_buffer("state_rows").add_(out.codes.n_rows)
        sae.get_buffer("state_fired").add_(out.codes.fired())
        peak = out.codes.peak()
        if self.activation == "jump":  # the stored value lacks the bias; the rule wants y = u + b
            peak = (peak + sae.b_enc).relu()
        state = sae.get_buffer("state_peak")
        torch.maximum(state, peak.to(state), out=state)

    def _adapt(self, sae: SAE) -> None:
        """One bias step (Algorithm 1, lines 11 to 19)."""
        group, targets = self.group().to(sae.b_enc.device), self.targets().to(sae.b_enc)
        peak = sae.get_buffer("state_peak")
        rate = sae.get_buffer("state_fired") / sae.get_buffer("state_rows")
        lowered = (sae.b_enc - self.gamma_down * peak).clamp_min(self.bias_low)
        raised = (sae.b_enc + self.gamma_up * self._group_peak(peak, group)).clamp_max(
            self.bias_high
        )
        moved = torch.where(rate > targets, lowered, sae.b_enc)
        sae.b_enc.copy_(torch.where(rate < self.dead_below, raised, moved))

    def _group_peak(
        self, peak: Float[Tensor, " d_sae"], group: Int[Tensor, " d_sae"]
    ) -> Float[Tensor, " d_sae"]:
        """Return for each latent T_k, the mean peak of its group's latents that fired."""
        total = peak.new_zeros(self.groups).index_add(0, group, peak)
        count = peak.new_zeros(self.groups).index_add(0, group, (peak > 0).to(peak))
        return (total / count.clamp_min(1))[group]
