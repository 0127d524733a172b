"""One latent, switched off at every position: the default truth, and what masking does.

    effect_c = m(codes) - m(codes with column c = 0)

Its first-order estimate is the signed sum over positions of gradient x activation.
"""

from dataclasses import dataclass
from typing import final

import torch

from gradsae.influence.truth import About, Singles, Truth


@final
@dataclass(frozen=True, kw_only=True)
class Latent(Truth):
    """A latent at all positions, zero baseline. Its scores have no truth in their names."""

    @property
    def name(self) -> str:
        return "latent"

    def ask(self, about: About, generator: torch.Generator) -> Singles:
        n = about.seen.n_active
        return Singles(seen=about.seen, columns=about.chosen(n, generator), n_latents=n)
