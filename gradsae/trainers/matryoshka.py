"""Matryoshka-BatchTopK: nested prefixes of the latents each rebuild the input."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.about import HIDDEN, About
from gradsae.interfaces import Loss, Progress, Trainer
from gradsae.optim import Optim
from gradsae.sae import kernels
from gradsae.sae.codes import Codes, DenseCodes, SparseCodes
from gradsae.sae.dictionary import Pass
from gradsae.sae.kernels.gates.topk import BatchTopKGate
from gradsae.sae.kernels.precision import Precision
from gradsae.sae.model import SAE
from gradsae.sae.normalise import Mode
from gradsae.trainers.batchwise import Batchwise
from gradsae.trainers.common import fvu, l0, squared_error
from gradsae.trainers.nested import check_prefixes, ends_of


@final
@dataclass(frozen=True, kw_only=True)
class Matryoshka(Trainer):
    """BatchTopK (see `BatchTopK`) whose first latents must rebuild the input on their own.

    Loss: mean over prefixes of the FVU of what the prefix rebuilds + aux_coefficient * FVU of the
    whole SAE's residual. Reference: Bussmann et al. 2025, https://arxiv.org/abs/2503.17547, section
    3. Differs from the paper: the mean instead of the sum over prefixes (Adam takes no notice of
    the factor; AuxK and the gradient clip keep the weight they have in BatchTopK), and what
    `Batchwise` lists, which explains the fields of the same names.
    """

    d_sae: int
    k: int | float
    """Open latents per sample, on average, of the whole SAE."""
    optim: Optim
    prefixes: Sequence[float] = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)
    """Share of all latents in each prefix; the last is 1. The paper's 2048, 6144, 14336, 30720 and
    65536 latents; dictionary_learning has the same as groups of 1/32, 1/16, 1/8, 1/4, 17/32."""
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
        check_prefixes(self.prefixes, self.d_sae)

    @property
    def name(self) -> str:
        return "matryoshka"

    @property
    def about(self) -> About:
        return About(
            label="Matryoshka",
            family="matryoshka",
            member=0,
            paper="https://arxiv.org/abs/2503.17547",
        )

    @property
    def gate(self) -> BatchTopKGate:
        return self.batchwise.gate

    def ends(self) -> list[int]:
        """Return the number of latents in each prefix."""
        return ends_of(self.prefixes, self.d_sae)

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> SAE:
        return self.batchwise.build(sample, generator)

    def loss(self, sae: SAE, out: Pass, progress: Progress) -> Loss:
        recon, squared = sae.b_dec, []
        W_dec = sae.decoder_weights()
        for part in decode_groups(out.codes, W_dec, self.ends(), out.precision).unbind(1):
            recon = recon + part
            squared.append(squared_error(out.x_in, recon))
        unexplained = fvu(out.x_in, torch.stack(squared))
        aux = self.batchwise.aux.loss(sae, out, out.x_in - recon.detach())
        parts = {"fvu": unexplained[-1].detach(), "fvu_first": unexplained[0].detach()}
        parts |= {"l0": l0(out.codes), "aux": aux.detach()}
        return Loss(unexplained.mean() + self.aux_coefficient * aux, parts)

    def after_step(self, sae: SAE, out: Pass, progress: Progress) -> None:
        self.batchwise.after_step(sae, out)


def decode_groups(
    codes: Codes,
    W_dec: Float[Tensor, "d_sae d_in"],
    ends: Sequence[int],
    precision: Precision = "fp32",
) -> Float[Tensor, "batch groups d_in"]:
    """Return what the latents between two ends write, without a bias; their running sum is what the
    prefixes write. All groups go through one decode, as rows of their own."""
    if isinstance(codes, SparseCodes):
        flat = kernels.decode(_rows_of_groups(codes, ends), W_dec, precision)
        return flat.view(codes.n_rows, len(ends), -1)
    spans = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    groups = [(DenseCodes(values=codes.values[:, span]), W_dec[span]) for span in spans]
    return torch.stack([kernels.decode(*group, precision) for group in groups], dim=1)


def _rows_of_groups(codes: SparseCodes, ends: Sequence[int]) -> SparseCodes:
    """Return the same entries as codes with a row for each group of each row.

    The entries of a row must rise in their latents, as those of a gate with a threshold do.
    """
    latents, n = codes.latents, len(ends)
    group = torch.bucketize(latents, torch.tensor(ends, device=latents.device), right=True)
    row = codes.rows * n + group
    starts = torch.arange(codes.n_rows * n + 1, device=latents.device)
    offsets = torch.searchsorted(row, starts)
    return SparseCodes(values=codes.values, latents=latents, offsets=offsets, d_sae=codes.d_sae)
