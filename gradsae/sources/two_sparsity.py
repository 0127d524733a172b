"""Two sparsities: each row has few or many active features, so no single k fits all rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.interfaces import HeldOut, KnownSource
from gradsae.sae import kernels
from gradsae.sae.codes import SparseCodes
from gradsae.seeds import make_generator
from gradsae.sources.common import check_world, exact_support, row_offsets, true_directions
from gradsae.sources.streams import DrawnStream

VERSION = 1


@final
@dataclass(frozen=True, kw_only=True)
class TwoSparsity(KnownSource):
    """x = h V with s non-zeros of size 1 / sqrt(s), where s is one of two numbers on each row.

    Reference: Chen et al. 2025 (ICLR 2026 version), https://arxiv.org/abs/2506.14002, toy with
    imbalanced sparsity. The defaults are the paper's: every feature has rate
    (3 + 20) / 2 / 128 = 0.0898. Differs from the paper: directions have unit norm, and s is drawn
    independently for each row (the paper says "half of the samples").
    """

    name: ClassVar[str] = "two_sparsity"

    n_features: int = 128
    """True directions."""
    width: int = 42
    """d_in of the activations."""
    sparsities: Sequence[int] = (3, 20)
    """Active features of a row of each kind."""
    share: int | float = 0.5
    """Probability that a row is of the first kind."""
    seed: int = 0
    """Fixes V. Samples come from the seeds of `stream` and `held_out`."""

    def __post_init__(self) -> None:
        check_world(self.n_features, self.width, self.seed)
        checks.share("share", self.share)
        if len(self.sparsities) != 2:
            raise ValueError(f"sparsities must be two numbers, got {self.sparsities!r}")
        for size in self.sparsities:
            checks.whole("each of sparsities", size, 1, self.n_features)

    @property
    def about(self) -> About:
        return About(label="two sparsities", paper="https://arxiv.org/abs/2506.14002")

    @property
    def d_in(self) -> int:
        return self.width

    def stream(self, batch_size: int, seed: int, device: torch.device) -> DrawnStream:
        return DrawnStream(lambda n, g: self._draw(n, g).x, batch_size, seed, device)

    def held_out(self, n: int, seed: int) -> HeldOut:
        return self._draw(n, make_generator(seed, "eval"))

    def features(self) -> Float[Tensor, "n_features d_in"]:
        return true_directions(self.n_features, self.width, "unit", self.seed)

    def rates(self) -> Float[Tensor, " n_features"]:
        first, second = self.sparsities
        l0 = self.share * first + (1 - self.share) * second
        return torch.full((self.n_features,), l0 / self.n_features)

    def identity(self) -> dict[str, Any]:
        fields = {**vars(self), "sparsities": list(self.sparsities)}
        return {"name": self.name, "version": VERSION, **fields}

    def provenance(self) -> dict[str, Any]:
        return {"kind": "synthetic"}

    @torch.no_grad()
    def _draw(self, n: int, generator: torch.Generator) -> HeldOut:
        codes = self._codes(n, generator)
        return HeldOut(kernels.decode(codes, self.features()), codes)

    def _codes(self, n: int, generator: torch.Generator) -> SparseCodes:
        first, second = self.sparsities
        is_first = torch.rand(n, generator=generator) < self.share
        sizes = torch.where(is_first, first, second)
        latents = torch.full((n, max(first, second)), -1)
        for size, rows in ((first, is_first), (second, ~is_first)):
            chosen = exact_support(int(rows.sum()), self.n_features, size, generator)
            latents[rows.nonzero(), torch.arange(size)] = chosen
        return SparseCodes(
            values=sizes.rsqrt().repeat_interleave(sizes),
            latents=latents[latents >= 0],
            offsets=row_offsets(sizes),
            d_sae=self.n_features,
        )
