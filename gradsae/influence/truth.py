"""What a truth is: one definition of a latent's influence, as an edit that is measured.

"The influence of a latent" has several meanings, one per file of `truths/`. Each gives estimators
a view of the prompt in which switching a column off is exactly its edit. So one estimator serves
every truth: gradient x activation becomes gradient x (activation - baseline).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae.about import About
from gradsae.influence.ablation import ablate_all
from gradsae.influence.target import Target
from gradsae.interfaces import ModelSource, Skipped
from gradsae.prompts.seen import SeenPrompt
from gradsae.sae.dictionary import Dictionary


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PromptContext:
    """A prompt, its SAE and the seed, as given to a truth."""

    seen: SeenPrompt
    is_kept: Bool[Tensor, " pos"]
    """Positions that the SAE sees. Only these are edited."""
    sae: Dictionary
    source: ModelSource
    seed: int
    max_units: int | None
    """Number of units to measure, drawn at random; None for all."""

    def chosen(self, n: int, generator: torch.Generator) -> Int[Tensor, " units"]:
        """Draw which of `n` units are measured, ascending: all, or `max_units` at random."""
        order = torch.randperm(n, generator=generator)
        return order[: self.max_units].sort().values.to(self.seen.codes.device)

    def orders(self, n: int, generator: torch.Generator) -> Int[Tensor, "n active"]:
        """Draw `n` random orders of the prompt's active latents."""
        orders = [torch.randperm(self.seen.n_active, generator=generator) for _ in range(n)]
        return torch.stack(orders).to(self.seen.codes.device)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """The true effects of one prompt's units."""

    effect: Float[Tensor, "n_targets units"]
    """In units of the target; positive = the latent supports it."""
    n_reruns: float
    """Reruns that it took; a row counts as the share of positions that it ran."""
    error: Float[Tensor, "n_targets units"] | None = None
    """Standard error of each effect, where it is sampled."""


class PreparedTruth(ABC):
    """One definition of influence, made ready for one prompt. A frozen dataclass."""

    seen: SeenPrompt
    """The prompt as estimators see it: switching a column off is the truth's edit."""
    sign: float = 1.0
    """-1 where the edit adds what the column writes instead of taking it away."""
    is_whole: bool = True
    """False where only a random part of the units is measured: their top is not the top of all."""

    @abstractmethod
    def to_units(self, scores: Float[Tensor, " active"]) -> Float[Tensor, " units"]:
        """Return the estimate of each unit, from an estimator's scores of the columns of `seen`."""

    @abstractmethod
    def measure(self, targets: Sequence[Target], *, batch_rows: int) -> Measured:
        """Measure the true effects, for all targets in the same reruns."""

    def predict_from_ablation(
        self, effect: Float[Tensor, " active"]
    ) -> Float[Tensor, " units"] | None:
        """Return what effects of plain ablation predict for each unit; None for no prediction."""
        return None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Singles(PreparedTruth):
    """Units that are columns of `seen`, switched off one at a time."""

    seen: SeenPrompt
    columns: Int[Tensor, " units"]
    sign: float = 1.0
    n_latents: int | None = None
    """Number of first columns that are the prompt's active latents; None if none of them is."""

    @property
    def is_whole(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.columns) == self.seen.n_active

    def to_units(self, scores: Float[Tensor, " active"]) -> Float[Tensor, " units"]:
        return self.sign * scores[self.columns.to(scores.device)]

    def measure(self, targets: Sequence[Target], *, batch_rows: int) -> Measured:
        ablations = ablate_all(self.seen, targets, self.columns, batch_rows=batch_rows)
        effect = self.sign * torch.stack([ablation.effect for ablation in ablations])
        return Measured(effect=effect, n_reruns=ablations[0].n_reruns)

    def predict_from_ablation(
        self, effect: Float[Tensor, " active"]
    ) -> Float[Tensor, " units"] | None:
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

    @property
    def about(self) -> About:
        """Return label and paper: what tables, figures and the board show."""
        return About(label=self.name)

    @abstractmethod
    def prepare(
        self, context: PromptContext, generator: torch.Generator
    ) -> PreparedTruth | Skipped:
        """Return this definition made ready for one prompt, or why it does not apply there."""
