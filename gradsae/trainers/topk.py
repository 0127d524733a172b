"""TopK: keep the k largest latents of each sample; an auxiliary loss revives dead ones."""

from dataclasses import dataclass
from typing import final
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks, kernels
from gradsae.interfaces import Loss, Progress, Trainer
from gradsae.kernels.gates import TopKGate
from gradsae.normalise import MODES, Mode, fit_normaliser
from gradsae.optim import Optim
from gradsae.sae import SAE, Architecture, Pass
from gradsae.trainers.common import (
    HostCount,
    fvu,
    geometric_median,
    l0,
    positions,
    random_directions,
)

_N_DEAD: WeakKeyDictionary[SAE, tuple[int, HostCount]] = WeakKeyDictionary()
"""Dead latents of an SAE, counted at the end of a step for the next one; with the version of
`state_idle` that was counted, so that a buffer changed since (restored, say) is counted anew."""


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

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        checks.whole(f"k (with d_sae={self.d_sae})", self.k, 1, self.d_sae)
        checks.number("aux_coefficient", self.aux_coefficient, low=0)
        checks.whole("dead_after", self.dead_after, 1)
        checks.flag("tied", self.tied)
        checks.one_of("normalise", self.normalise, MODES)
        if self.aux_k is not None:
            checks.whole("aux_k", self.aux_k, 1)

    @property
    def name(self) -> str:
        return "topk"

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        d_in = sample.shape[1]
        sae = SAE(
            Architecture(
                d_in=d_in,
                d_sae=self.d_sae,
                gate="topk",
                k=self.k,
                tied=self.tied,
                normalise=self.normalise,
            )
        )
        normaliser = fit_normaliser(sample, self.normalise)
        sae.set_normaliser(normaliser)
        directions = random_directions(self.d_sae, d_in, generator)
        with torch.no_grad():
            sae.W_enc.copy_(directions)
            if sae.W_dec is not None:
                sae.W_dec.copy_(directions)
            sae.b_dec.copy_(geometric_median(normaliser.apply(sample).x))
        sae.register_buffer("state_idle", torch.zeros(self.d_sae, dtype=torch.int64))
        return sae

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        error = out.x_in - out.recon_in
        left = fvu(out.x_in, error)
        aux = self._aux(sae, out, error.detach())
        parts = {"fvu": left.detach(), "l0": l0(out.codes), "aux": aux.detach()}
        return Loss(left + self.aux_coefficient * aux, parts)

    def _aux(self, sae: SAE, out: Pass, error: Float[Tensor, "batch d_in"]) -> Float[Tensor, ""]:
        """Share of the residual's energy that the dead latents leave; 0 where none is dead."""
        n_dead = self._n_dead(sae) if self.aux_coefficient else 0
        if n_dead == 0:
            return error.new_zeros(())
        dead = positions(sae.get_buffer("state_idle") >= self.dead_after, n_dead)
        wanted = self.aux_k or max(1, sae.arch.d_in // 2)
        gate = TopKGate(k=min(wanted, len(dead)))
        W_enc, b_enc, W_dec = sae.W_enc[dead], sae.b_enc[dead], sae.written()[dead]
        b_pre, precision = sae.b_dec.detach(), out.precision
        codes = kernels.encode(out.x_in, W_enc, b_enc, b_pre, gate, precision=precision).codes
        rebuilt = kernels.decode(codes, W_dec, precision)
        return (error - rebuilt).square().sum() / error.square().sum().clamp_min(1e-12)

    def _n_dead(self, sae: SAE) -> int:
        idle = sae.get_buffer("state_idle")
        version, count = _N_DEAD.get(sae, (None, None))
        if count is None or version != idle._version:
            count = HostCount((idle >= self.dead_after).sum())
        return count.read()

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        kernels.unit_rows_(sae.written())
        idle = sae.get_buffer("state_idle")
        idle.add_(len(out.x_in)).masked_fill_(out.codes.fired() > 0, 0)
        _N_DEAD[sae] = idle._version, HostCount((idle >= self.dead_after).sum())
