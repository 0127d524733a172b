"""Two methods whose SAEs bring an encoder of their own: ISTA (dense codes) and matching pursuit.

`tests/test_any_encoder.py` takes them through every task.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gradsae.about import About
from gradsae.interfaces import Loss, Progress, Trainer
from gradsae.optim import Optim
from gradsae.sae.codes import SparseCodes, from_dense
from gradsae.sae.dictionary import Dictionary, Pass


@final
class IstaSAE(Dictionary):
    """Codes are some steps of non-negative ISTA on |x - codes D|^2 / 2 + penalty * sum(codes)."""

    def __init__(self, d_in: int, d_sae: int, penalty: float, n_steps: int) -> None:
        super().__init__(d_in, d_sae)
        self.D = nn.Parameter(torch.zeros(d_sae, d_in))
        self.penalty, self.n_steps = penalty, n_steps

    def encode(self, x: Tensor) -> Tensor:
        step = 1 / torch.linalg.matrix_norm(self.D.detach(), 2).square().clamp_min(1e-6)
        codes = x.new_zeros(len(x), self.d_sae)
        for _ in range(self.n_steps):
            codes = (codes - step * ((codes @ self.D - x) @ self.D.mT + self.penalty)).relu()
        return codes

    def decoder(self) -> Tensor:
        return self.D


@final
class MatchingPursuitSAE(Dictionary):
    """Take the atom with the largest inner product `k` times; the codes are sparse."""

    def __init__(self, d_in: int, d_sae: int, k: int) -> None:
        super().__init__(d_in, d_sae, most_open=k)
        self.D = nn.Parameter(torch.zeros(d_sae, d_in))
        self.bias = nn.Parameter(torch.zeros(d_in))

    def encode(self, x: Tensor) -> SparseCodes:
        left, codes = x - self.bias, x.new_zeros(len(x), self.d_sae)
        for _ in range(self.most_open or 1):
            best, atom = (left @ self.D.mT).max(1)
            codes = codes.scatter_add(1, atom[:, None], best.relu()[:, None])
            left = left - best.relu()[:, None] * self.D[atom]
        return from_dense(codes)

    def decoder(self) -> Tensor:
        return self.D

    def decode(self, codes) -> Tensor:
        return super().decode(codes) + self.bias


@dataclass(frozen=True, kw_only=True)
class OwnEncoder(Trainer[Dictionary]):
    """Squared error of unit atoms from random directions."""

    d_sae: int
    optim: Optim
    encoder: str = "ista"
    k: int = 3

    @property
    def name(self) -> str:
        return f"own_{self.encoder}"

    @property
    def about(self) -> About:
        return About(label=f"own {self.encoder}")

    def blank(self, d_in: int) -> Dictionary:
        if self.encoder == "ista":
            return IstaSAE(d_in, self.d_sae, penalty=0.05, n_steps=20)
        return MatchingPursuitSAE(d_in, self.d_sae, self.k)

    def build(self, sample: Tensor, generator: torch.Generator) -> Dictionary:
        sae = self.blank(sample.shape[1])
        drawn = torch.randn(self.d_sae, sample.shape[1], generator=generator)
        sae.get_parameter("D").data.copy_(normalize(drawn, dim=1))
        return sae

    def loss(self, sae: Dictionary, out: Pass, progress: Progress) -> Loss:
        error = (out.x_in - out.recon_in).square().sum(1).mean()
        return Loss(error, {"error": error.detach()})

    def after_step(self, sae: Dictionary, out: Pass, progress: Progress) -> None:
        D = sae.get_parameter("D")
        D.copy_(normalize(D, dim=1))
