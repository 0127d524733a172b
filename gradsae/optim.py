"""Adam with a learning-rate schedule: the optimiser every trainer here uses."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import nn

from gradsae import checks
from gradsae.about import LATER


@final
@dataclass(frozen=True, kw_only=True)
class Optim:
    """Adam; the rate rises linearly, stays, then decays over the last part of the run."""

    lr: float
    """Peak learning rate."""
    betas: Sequence[float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.0
    """Share of all steps over which the rate rises from 0."""
    decay: Literal["none", "linear", "cosine"] = "none"
    decay_share: float = 0.2
    """Share of all steps, at the end, over which the rate decays."""
    final: float = 0.0
    """Rate at the end of the decay, as a share of the peak."""
    clip: float | None = None
    """Largest gradient norm over all parameters, or None."""
    warmup_steps: int = field(default=0, metadata=LATER)
    """Steps over which the rate rises, where that is longer than the share `warmup`."""

    def __post_init__(self) -> None:
        checks.number("lr", self.lr, above=0)
        checks.number("eps", self.eps, above=0)
        for name in ("warmup", "decay_share", "final"):
            checks.share(name, getattr(self, name))
        checks.whole("warmup_steps", self.warmup_steps, 0)
        checks.one_of("decay", self.decay, ("none", "linear", "cosine"))
        if self.clip is not None:
            checks.number("clip", self.clip, above=0)
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas!r}")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
        trainable = [p for p in parameters if p.requires_grad]
        b1, b2 = self.betas
        return torch.optim.Adam(trainable, lr=self.lr, betas=(b1, b2), eps=self.eps, fused=True)

    def lr_at(self, step: int, n_steps: int) -> float:
        """Return the learning rate of step 0 <= step < n_steps."""
        rise = max(self.warmup * n_steps, self.warmup_steps)
        if step < rise:
            return self.lr * (step + 1) / (rise + 1)
        start = n_steps * (1 - self.decay_share)
        if self.decay == "none" or step < start:
            return self.lr
        done = (step - start) / max(n_steps - start, 1)
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.lr * (self.final + (1 - self.final) * left)
