"""Activations that the caller already has, as a source."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.about import About
from gradsae.errors import UserError
from gradsae.interfaces import HeldOut, Source, Stream
from gradsae.seeds import make_generator
from gradsae.sources.streams import ShuffledStream
from gradsae.storage.cache import sha256_text


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Activations(Source):
    """Rows of one matrix. Training and measuring see the same rows: keep rows apart to score on."""

    name: ClassVar[str] = "activations"

    x: Float[Tensor, "*shape"]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.x.dim() != 2 or len(self.x) == 0 or not self.x.is_floating_point():
            raise UserError(
                "activations must be a matrix of numbers with one row per token, shape [n, d_in]; "
                f"got shape {tuple(self.x.shape)} of {self.x.dtype}"
            )
        if not bool(self.x.isfinite().all()):
            bad = int((~self.x.isfinite()).sum())
            raise UserError(f"activations must be finite, {bad} of {self.x.numel()} are not")

    @property
    def about(self) -> About:
        return About(label="given activations")

    @property
    def d_in(self) -> int:
        return self.x.shape[1]

    def stream(self, batch_size: int, seed: int, device: torch.device) -> Stream:
        """Return batches of the rows in a new random order each epoch."""
        rows = self.x.detach().cpu()
        return ShuffledStream(lambda i: rows[i].float(), len(rows), batch_size, seed, device)

    def held_out(self, n: int, seed: int) -> HeldOut:
        """Return all rows, or `n` of them drawn at random."""
        rows = self.x.detach().cpu()
        if n < len(rows):
            rows = rows[torch.randperm(len(rows), generator=make_generator(seed, "eval rows"))[:n]]
        return HeldOut(rows.float())

    def identity(self) -> dict[str, Any]:
        text = self.x.detach().float().cpu().numpy().tobytes().hex()
        return {"sha256": sha256_text(text), "rows": len(self.x)}

    def provenance(self) -> dict[str, Any]:
        return {}
