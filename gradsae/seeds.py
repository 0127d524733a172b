"""Named random streams: the same integer never means the same draws twice.

With one plain integer for everything, matching shapes give true features and initial weights the
*same draw*: the untrained SAE then scores a perfect recovery. Every draw in this package therefore
takes a generator made from (seed, purpose).
"""

from dataclasses import dataclass
from typing import final
from zlib import crc32

import torch


@final
@dataclass(frozen=True, kw_only=True)
class Seeds:
    """The seeds of one cell. All four usually hold the same number; the streams still differ."""

    world: int = 0
    """True features, and whatever else is fixed about a synthetic source."""
    data: int = 0
    """Training samples and their order."""
    init: int = 0
    """Initial weights."""
    eval: int = 0
    """Held-out samples, prompts, random controls, bootstrap."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not int or value < 0:
                raise ValueError(f"seeds.{name} must be a whole number from 0, got {value!r}")


def make_generator(seed: int, purpose: str) -> torch.Generator:
    """Return the generator of one purpose, for example "world", "data", "init" or "eval"."""
    return torch.Generator().manual_seed(crc32(f"{purpose}/{seed}".encode()))
