"""A joint set: several latents switched off at once, at every position.

    effect_S = m(codes) - m(codes with the columns of S = 0)

The estimate of a set is the sum of its latents' estimates. An estimator that is right about single
latents still fails here where latents interact (redundancy: sum too small; synergy: too large).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.ablation import effects_of
from gradsae.influence.target import Target
from gradsae.influence.truth import Measured, PreparedTruth, PromptContext, Truth
from gradsae.interfaces import Skipped
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class Joint(Truth):
    """Random sets of the active latents."""

    size: int = 8
    """Number of latents in a set."""
    n_sets: int = 64

    def __post_init__(self) -> None:
        checks.whole("size", self.size, 2)
        checks.whole("n_sets", self.n_sets, 3)

    @property
    def name(self) -> str:
        return f"joint_{self.size}"

    @property
    def about(self) -> About:
        return About(label=f"sets of {self.size}", family="joint")

    def prepare(self, context: PromptContext, generator: torch.Generator) -> "Sets | Skipped":
        if context.seen.n_active <= self.size:
            return Skipped(f"no more than {self.size} active latents to draw sets from")
        return Sets(
            seen=context.seen, members=context.orders(self.n_sets, generator)[:, : self.size]
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Sets(PreparedTruth):
    """Units that are sets of columns."""

    seen: SeenPrompt
    members: Int[Tensor, "sets size"]

    def to_units(self, scores: Float[Tensor, " active"]) -> Float[Tensor, " units"]:
        return scores[self.members.to(scores.device)].sum(1)

    def predict_from_ablation(
        self, effect: Float[Tensor, " active"]
    ) -> Float[Tensor, " units"] | None:
        return self.to_units(effect)

    @torch.no_grad()
    def measure(self, targets: Sequence[Target], *, batch_rows: int) -> Measured:
        opens = self.seen.first_open(self.members.flatten()).view_as(self.members).amin(1)
        effect, n_reruns = effects_of(
            self.seen, targets, self._without, begins=opens, batch_rows=batch_rows
        )
        return Measured(effect=effect, n_reruns=n_reruns)

    def _without(self, part: Int[Tensor, " batch"]) -> Float[Tensor, "batch pos d_in"]:
        """Return one activation per set: all its latents switched off at every position."""
        factors = torch.ones(len(part), 1, self.seen.n_active).to(self.seen.codes)
        factors[:, 0].scatter_(1, self.members[part], 0.0)
        return self.seen.activation(self.seen.codes * factors)
