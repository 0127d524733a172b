"""What an estimator of influence is: scores for the active latents, at a stated cost."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.influence.target import Target
from gradsae.interfaces import Skipped
from gradsae.prompts.seen import SeenPrompt


class Estimator(ABC):
    """Ranks the active latents of a prompt. A frozen dataclass, one per file of `estimators/`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Variant in score names; fields that change the result are part of it."""

    @property
    def in_units(self) -> bool:
        """True if the scores are in units of the target, so that their size can be judged."""
        return True

    @property
    def is_first_order(self) -> bool:
        """True if all it knows of the target is the gradient of the clean pass."""
        return False

    def unfit(self, target: Target) -> Skipped | None:
        """Return why this estimator says nothing about a target, or None."""
        if self.is_first_order and target.is_flat:
            return Skipped(
                "the target is flat at the clean pass: its gradient there is zero by construction"
            )
        return None

    @abstractmethod
    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        """Return one score per active latent; larger = supports the target more."""

    @abstractmethod
    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """Cost on this prompt, alone and from the tokens on, in full forward passes.

        A backward counts as two forwards; only the share of the model that is run counts (blocks
        after the site and, where a run begins inside the prompt, positions from there on).
        """
