"""Matryoshka with a step of ISTA, falling k, prefixes by rate: a recipe found by others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.about import HIDDEN, About
from gradsae.interfaces import Loss, Progress, Trainer
from gradsae.optim import Optim
from gradsae.sae.dictionary import Pass
from gradsae.sae.kernels.gates.topk import BatchTopKGate
from gradsae.sae.model import SAE
from gradsae.sae.normalise import Mode
from gradsae.trainers.batchwise import Batchwise
from gradsae.trainers.common import fvu, l0
from gradsae.trainers.nested import (
    check_prefixes,
    decode_groups,
    ends_of,
    follow_rates,
    groups_of,
    rank_by_rate,
    row_errors,
    tilted_mean,
)


@final
@dataclass(frozen=True, kw_only=True)
class IstaMatryoshka(Trainer):
    """Matryoshka-BatchTopK whose encoder refines its codes; every piece of the recipe is a field.

    Loss: tilted FVU of the whole SAE + inner_weight * sum over inner prefixes of their tilted FVU +
    aux_coefficient * FVU of the residual (see `AuxK`). Reference: the recipe of
    https://github.com/bigsnarfdude/researchRalph (commit 872fcc8, the class ReferenceStyleSAE; F1
    .975 on SynthSAEBench-16k v1 after 50 million rows), built on that of
    https://github.com/chanind/claude-auto-research-synthsaebench. The defaults are its values at
    200 million rows; the published rates of learning stand in conf/trainer/ista_matryoshka.yaml.
    Differs from it: what `Batchwise` lists, which explains the fields of the same names; dead
    latents read the input before it is refined; and prefixes follow the order of rates found every
    `sort_every` steps, as its text says, where its code has them follow every step.
    """

    d_sae: int
    k: int | float
    """Open latents per sample, on average, at the end of training."""
    optim: Optim
    k_start: int | float = 3.2
    """k at the first step over k; it falls linearly. Published: 80 over 25 for 200 million rows,
    100 over 25 for 50 million. 1 keeps k as it is."""
    prefixes: Sequence[float] = (1 / 128, 1 / 32, 1 / 8, 1 / 4, 1 / 2, 1.0)
    """Share of all latents in each prefix; the last is 1. (1.0,) alone is BatchTopK."""
    inner_weight: float = 0.5
    """Weight of the FVU of each prefix but the last."""
    detach: bool = True
    """Let the FVU of an inner prefix train only the latents that the prefix before lacks."""
    ista_steps: int = 1
    ista_rate: float = 0.25
    sort_every: int = 1000
    """Steps between sortings of the latents by rate, which the prefixes follow; 0 for none."""
    sort_after: int = 2000
    """Steps before the first sorting."""
    rate_decay: float = 0.99
    """Weight, from one step to the next, of the running mean of rates."""
    tilt: float = 0.01
    """Rows are weighted by exp(tilt * their error / the mean error); 0 weights all alike."""
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
            ista_steps=self.ista_steps,
            ista_rate=self.ista_rate,
        )
        object.__setattr__(self, "batchwise", batchwise)
        checks.number("k_start", self.k_start, above=0)
        checks.number("inner_weight", self.inner_weight, low=0)
        checks.number("tilt", self.tilt, low=0)
        checks.share("rate_decay", self.rate_decay)
        checks.flag("detach", self.detach)
        checks.whole("sort_every", self.sort_every, 0)
        checks.whole("sort_after", self.sort_after, 0)
        check_prefixes(self.prefixes, self.d_sae)

    @property
    def name(self) -> str:
        return "ista_matryoshka"

    @property
    def about(self) -> About:
        return About(
            label="Matryoshka + ISTA",
            family="matryoshka",
            member=1,
            paper="https://github.com/bigsnarfdude/researchRalph",
        )

    @property
    def gate(self) -> BatchTopKGate:
        return self.batchwise.gate

    def gate_at(self, progress: Progress) -> BatchTopKGate:
        share_done = progress.step / max(1, progress.n_steps)
        k = self.k * (self.k_start + (1 - self.k_start) * share_done)
        return BatchTopKGate(k=min(k, self.d_sae))

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        sae = self.batchwise.build(sample, generator)
        sae.register_buffer("state_rate", torch.zeros(self.d_sae))
        sae.register_buffer("state_rank", torch.arange(self.d_sae))
        return sae

    def groups(self, sae: SAE) -> Int[Tensor, " d_sae"]:
        """Return for each latent the first prefix that has it."""
        return groups_of(sae.get_buffer("state_rank"), ends_of(self.prefixes, self.d_sae))

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        n_groups = len(self.prefixes)
        written = decode_groups(
            out.codes, sae.decoder_weights(), self.groups(sae), n_groups, out.precision
        )
        errors = row_errors(out.x_in, written, sae.b_dec, detach=self.detach)
        means = torch.stack([tilted_mean(each, self.tilt) for each in errors])
        unexplained = fvu(out.x_in, means * out.codes.n_rows)
        aux = self.batchwise.aux.loss(sae, out, (out.x_in - sae.b_dec - written.sum(1)).detach())
        total = unexplained[-1] + self.inner_weight * unexplained[:-1].sum()
        parts = {"fvu": unexplained[-1].detach(), "fvu_first": unexplained[0].detach()}
        parts |= {"l0": l0(out.codes), "aux": aux.detach()}
        return Loss(total + self.aux_coefficient * aux, parts)

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        self.batchwise.after_step(sae, out)
        rate, n_done = sae.get_buffer("state_rate"), progress.step + 1
        follow_rates(rate, out.codes, max(1 - self.rate_decay, 1 / n_done))
        if self.sort_every and n_done >= self.sort_after and n_done % self.sort_every == 0:
            sae.get_buffer("state_rank").copy_(rank_by_rate(rate))
