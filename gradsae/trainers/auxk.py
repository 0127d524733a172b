"""AuxK: dead latents learn to explain the residual of the others."""

from dataclasses import dataclass
from typing import final
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.sae import kernels
from gradsae.sae.dictionary import Pass
from gradsae.sae.kernels.gates.topk import TopKGate
from gradsae.sae.model import SAE
from gradsae.trainers.common import HostCount, positions

_N_DEAD: WeakKeyDictionary[SAE, tuple[int, HostCount]] = WeakKeyDictionary()
"""Dead latents of an SAE, counted at the end of a step for the next one; with the version of
`state_idle` that was counted, so that a buffer changed since (restored, say) is counted anew."""


@final
@dataclass(frozen=True, kw_only=True)
class AuxK:
    """A part of the TopK family. Reference: Gao et al. 2024, https://arxiv.org/abs/2406.04093,
    section A.2; Bussmann et al. 2024 and 2025 take it over."""

    aux_k: int | None
    """Dead latents that explain the residual of a row; None is d_in / 2."""
    aux_coefficient: float
    """Weight of the loss; 0 switches it off."""
    dead_after: int
    """Samples without firing after which a latent counts as dead."""

    def __post_init__(self) -> None:
        checks.number("aux_coefficient", self.aux_coefficient, low=0)
        checks.whole("dead_after", self.dead_after, 1)
        if self.aux_k is not None:
            checks.whole("aux_k", self.aux_k, 1)

    def prepare(self, sae: SAE) -> None:
        """Give the SAE a count of samples since each latent fired."""
        sae.register_buffer("state_idle", torch.zeros(sae.d_sae, dtype=torch.int64))

    def loss(self, sae: SAE, out: Pass, error: Float[Tensor, "batch d_in"]) -> Float[Tensor, ""]:
        """Return the share of the residual's energy that dead latents leave; 0 where none is dead.

        Not yet weighted. `error` is the residual of the whole SAE; it gets no gradient from here.
        """
        n_dead = self._n_dead(sae) if self.aux_coefficient else 0
        if n_dead == 0:
            return error.new_zeros(())
        error = error.detach()
        dead = positions(sae.get_buffer("state_idle") >= self.dead_after, n_dead)
        most = self.aux_k or max(1, sae.d_in // 2)
        gate = TopKGate(k=min(most, len(dead)))
        W_enc, b_enc, W_dec = sae.W_enc[dead], sae.b_enc[dead], sae.decoder_weights()[dead]
        b_pre, precision = sae.b_dec.detach(), out.precision
        codes = kernels.encode(out.x_in, W_enc, b_enc, b_pre, gate, precision).codes
        rebuilt = kernels.decode(codes, W_dec, precision)
        return (error - rebuilt).square().sum() / error.square().sum().clamp_min(1e-12)

    def count(self, sae: SAE, out: Pass) -> None:
        """Note which latents fired on this batch."""
        idle = sae.get_buffer("state_idle")
        idle.add_(len(out.x_in)).masked_fill_(out.codes.fired() > 0, 0)
        _N_DEAD[sae] = idle._version, HostCount((idle >= self.dead_after).sum())

    def _n_dead(self, sae: SAE) -> int:
        idle = sae.get_buffer("state_idle")
        version, count = _N_DEAD.get(sae, (None, None))
        if count is None or version != idle._version:
            count = HostCount((idle >= self.dead_after).sum())
        return count.read()
