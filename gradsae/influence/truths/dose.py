"""A finite dose: what the target gains when a latent's direction is added, fired or not.

    effect_c = m(x + dose r W_c / |W_c|) - m(x)      at every position that the SAE sees

r is the median over the prompt's active latents of the largest norm that each writes, so every
latent pushes equally hard and only directions differ. Inactive latents are prepared too: gradient x
activation is 0 for them by construction, the gradient itself is not. Estimators see the dose in the
place of the codes, so grad_times_act is the gradient times the dose.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.truth import PromptContext, Singles, Truth
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class Dose(Truth):
    """Steering by one latent at a time; positive = the direction raises the target."""

    dose: float = 1.0
    """In units of r; negative doses push the other way."""
    n_inactive: int = 64
    """Number of latents that do not fire on the prompt, drawn at random, beside those that do."""

    def __post_init__(self) -> None:
        checks.number("dose", self.dose)
        if self.dose == 0:
            raise ValueError("dose must not be 0: nothing would be edited")
        checks.whole("n_inactive", self.n_inactive, 0)

    @property
    def name(self) -> str:
        return f"dose_{self.dose:g}"

    @property
    def about(self) -> About:
        return About(label=f"added, dose {self.dose:g}", family="dose")

    def prepare(self, context: PromptContext, generator: torch.Generator) -> Singles:
        seen = context.seen
        size = typical_write(seen)
        silent = self._silent(context, generator)
        directions = torch.cat([seen.directions, context.sae.decoder().detach()[silent]])
        norm = directions.norm(dim=1).clamp_min(torch.finfo(directions.dtype).tiny)
        # Switching a column off subtracts its code, so the column holds minus the dose.
        codes = -self.dose * size / (seen.scale * norm)
        view = replace(
            seen,
            latents=torch.cat([seen.latents, silent]),
            codes=torch.where(context.is_kept[:, None], codes, 0.0),
            directions=directions,
        )
        columns = context.chosen(view.n_active, generator)
        return Singles(seen=view, columns=columns, sign=-1.0, n_latents=seen.n_active)

    def _silent(self, context: PromptContext, generator: torch.Generator) -> Int[Tensor, " silent"]:
        silent = torch.ones(context.sae.d_sae, dtype=torch.bool)
        silent[context.seen.latents.cpu()] = False
        silent = silent.nonzero()[:, 0]
        chosen = torch.randperm(len(silent), generator=generator)[: self.n_inactive]
        return silent[chosen].sort().values.to(context.seen.latents.device)


def typical_write(seen: SeenPrompt) -> float:
    """Return the median over active latents of the largest norm each writes, in raw units."""
    largest = (seen.codes * seen.scale).amax(0) * seen.directions.norm(dim=1)
    return largest.median().item()
