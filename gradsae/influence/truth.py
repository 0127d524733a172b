"""What a truth is: which edit a latent's influence is measured by, and what it is measured on.

"The influence of a latent" has several meanings. Each is a file of `truths/`, and each shows the
estimators the prompt in such a way that switching a column off is exactly its edit. One estimator
then serves every truth: gradient times activation becomes gradient times (activation - baseline).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae.influence.ablation import ablate_all
from gradsae.influence.target import Target
from gradsae.interfaces import ModelSource, Skipped
from gradsae.prompts.seen import SeenPrompt
from gradsae.sae.dictionary import Dictionary


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class About:
    """What a truth may look at."""

    seen: SeenPrompt
    kept: Bool[Tensor, " pos"]
    """Positions that the SAE sees; no other is edited."""
    sae: Dictionary
    source: ModelSource
    seed: int
    max_units: int | None
    """Measure a random part; None for all."""

    def chosen(self, n: int, generator: torch.Generator) -> Int[Tensor, " units"]:
        """Return which of `n` units are measured, ascending: all, or `max_units` at random."""
        order = torch.randperm(n, generator=generator)
        return order[: self.max_units].sort().values.to(self.seen.codes.device)

    def orders(self, n: int, generator: torch.Generator) -> Int[Tensor, "n active"]:
        """Return `n` random orders of the prompt's active latents."""
        drawn = [torch.randperm(self.seen.n_active, generator=generator) for _ in range(n)]
        return torch.stack(drawn).to(self.seen.codes.device)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """The true effects of one prompt's units."""

    effect: Float[Tensor, "n_targets units"]
    """In units of the target; positive = the latent supports it."""
    suffix_runs: float
    error: Float[Tensor, "n_targets units"] | None = None
    """Standard error of each effect, where it is sampled."""


class Asked(ABC):
    """A truth asked of one prompt. A frozen dataclass."""

    seen: SeenPrompt
    """The prompt as estimators see it: switching a column off is the truth's edit."""
    sign: float = 1.0
    """-1 where the edit adds what the column writes instead of taking it away."""
    is_whole: bool = True
    """False where only a random part of the units is measured: their top is not the top of all."""

    @property
    @abstractmethod
    def n_units(self) -> int: ...

    @abstractmethod
    def of(self, scores: Float[Tensor, " active"]) -> Float[Tensor, " units"]:
        """Return the estimate for each unit, from an estimator's scores of `seen`."""

    @abstractmethod
    def measure(self, targets: Sequence[Target], *, batch_rows: int) -> Measured:
        """Return the true effects, for all targets from the same runs."""

    def of_ablation(self, effect: Float[Tensor, " active"]) -> Float[Tensor, " units"] | None:
        """Return what plain ablation of the active latents would predict; None if nothing."""
        return None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Singles(Asked):
    """Units that are columns of `seen`, switched off one at a time."""

    seen: SeenPrompt
    columns: Int[Tensor, " units"]
    sign: float = 1.0
    n_latents: int | None = None
    """How many of the first columns are the prompt's active latents; None: none of them is."""

    @property
    def n_units(self) -> int:
        return len(self.columns)

    @property
    def is_whole(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.columns) == self.seen.n_active

    def of(self, scores: Float[Tensor, " active"]) -> Float[Tensor, " units"]:
        return self.sign * scores[self.columns.to(scores.device)]

    def measure(self, targets: Sequence[Target], *, batch_rows: int) -> Measured:
        found = ablate_all(self.seen, targets, self.columns, batch_rows=batch_rows)
        effect = self.sign * torch.stack([each.effect for each in found])
        return Measured(effect=effect, suffix_runs=found[0].suffix_runs)

    def of_ablation(self, effect: Float[Tensor, " active"]) -> Float[Tensor, " units"] | None:
        if self.n_latents is None:
            return None
        padded = effect.new_zeros(self.seen.n_active)
        padded[: self.n_latents] = effect
        return padded[self.columns.to(effect.device)]


class Truth(ABC):
    """One meaning of "the influence of a latent". A frozen dataclass, one per file of `truths/`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Part of score names; fields that change the result are part of it."""

    @abstractmethod
    def ask(self, about: About, generator: torch.Generator) -> Asked | Skipped:
        """Return the question put to one prompt, or why it cannot be."""
