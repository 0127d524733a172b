"""What an estimator of influence is: a score for each active latent, at a stated cost."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.about import About
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt


class Estimator(ABC):
    """Scores the active latents of a prompt. A frozen dataclass, one per file of `estimators/`.

    Estimators that read one gradient at the clean codes are shortest as a `GradientEstimator`
    (`gradsae.influence.gradient`).
    """

    name: str
    """Variant in score names. Fields that change the scores are part of it."""
    in_units: bool = True
    """True if the scores are in units of the target, so that their size can be judged."""
    is_first_order: bool = False
    """True if the gradient of the clean pass is all that is known of the target."""

    @property
    def about(self) -> About:
        """Return label, family, paper and flags: what tables, figures and the board show."""
        return About(label=self.name)

    def why_not(self, target: Target) -> str | None:
        """Return why this estimator has no scores for a target, or None if it has."""
        if self.is_first_order and target.is_flat:
            return (
                "the target is flat at the clean pass: its gradient there is zero by construction"
            )
        return None

    @abstractmethod
    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        """Return one score per active latent; larger = supports the target more.

        `generator` is on the CPU and is the only source of randomness.
        """

    def unreliable_share(
        self, scores: Float[Tensor, " active"], first_order: Float[Tensor, " active"]
    ) -> float | None:
        """Return the share of latents, in [0, 1], on which the gradient is not to be relied on.

        `scores` are this estimator's own, `first_order` those of gradient x activation for the same
        target. None for an estimator that does not judge the gradient.
        """
        return None

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """Return the cost on this prompt, from the tokens on, in full forward passes.

        A backward pass counts as two forward passes. Of a rerun only the share of the model that
        runs counts: blocks after the site, and positions from its start on. This default is the
        run up to the site alone.
        """
        return 1 - seen.rerun.fraction
