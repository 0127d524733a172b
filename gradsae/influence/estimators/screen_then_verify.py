"""Screen, then verify: rank by an estimate, then ablate the first few for certain.

Reference: Kramar et al. 2024, AtP*, https://arxiv.org/abs/2403.00745, section 3 (exact verification
of a ranked list). Differs from the paper: verified and unverified scores are in the same units and
stay in one list.

The gradient errs by the curvature, and that grows with the square of what a latent writes: in early
layers of SmolLM2 the latents that it misses are large ones. `first: size` checks those that write
most for what a check of them costs (best for the rank correlation), `first: both` them and the best
by the screen in turn (best for the top).
"""

from dataclasses import dataclass, field
from typing import Literal, final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.influence.ablation import ablate, forward_equivalents
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.gradient import written
from gradsae.influence.target import Target
from gradsae.interfaces import LATER
from gradsae.prompts.seen import SeenPrompt

First = Literal["score", "both", "size"]


@final
@dataclass(frozen=True, kw_only=True)
class ScreenThenVerify(Estimator):
    """Exact for the `budget` latents that the screen says support the target most."""

    budget: int = 16
    """Latents that are ablated, all in one batch with an unedited row."""
    screen: Estimator = field(default=GradTimesAct(), metadata=LATER)
    """What ranks them; its scores must be in units of the target."""
    first: First = field(default="score", metadata=LATER)
    """Who is checked first: the best by the screen, the largest for their cost, or both in turn."""
    max_cost: float | None = field(default=None, metadata=LATER)
    """Verify as many as this many forward-equivalents pay for, screen included; then `budget` is
    not used. A latent costs the share of positions from where it first opens."""

    def __post_init__(self) -> None:
        checks.whole("budget", self.budget, 1)
        if not self.screen.in_units:
            raise ValueError(f"screen must be in units of the target, got {self.screen.name}")
        checks.one_of("first", self.first, get_args(First))
        if self.max_cost is not None:
            checks.number("max_cost", self.max_cost, above=1)

    @property
    def name(self) -> str:
        screen = "screen" if isinstance(self.screen, GradTimesAct) else self.screen.name
        size = self.budget if self.max_cost is None else f"{self.max_cost:g}fe"
        first = {"score": screen, "both": f"{screen}_size", "size": f"{screen}_by_size"}[self.first]
        return f"{first}_verify_{size}"

    @property
    def is_first_order(self) -> bool:
        return self.screen.is_first_order

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        scores = self.screen.scores(seen, target, generator)
        first = self._first(seen, scores)
        if len(first):
            scores[first] = ablate(seen, target, first, batch_rows=len(first) + 1).effect
        return scores

    def _first(self, seen: SeenPrompt, scores: Float[Tensor, " active"]) -> Int[Tensor, " checked"]:
        """The latents to verify: the first `budget`, or those of the list that can be paid."""
        order = scores.argsort(descending=True, stable=True)
        if self.first != "score":
            by_size = (written(seen) / position_share(seen)).argsort(descending=True, stable=True)
            order = by_size if self.first == "size" else in_turn(order, by_size)
        if self.max_cost is None:
            return order[: self._n_checked(seen)]
        left = self.max_cost - self.screen.forward_equivalents(seen) - seen.suffix.fraction
        return payable(order, seen.suffix.fraction * position_share(seen), left)

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """At most: as if every verified latent opened at the first position, or `max_cost`."""
        screen = self.screen.forward_equivalents(seen)
        if self.max_cost is not None:
            all_of_it = forward_equivalents(seen, torch.arange(seen.n_active)) - 1
            return max(screen, min(self.max_cost, screen + seen.suffix.fraction + all_of_it))
        return screen + (self._n_checked(seen) + 1) * seen.suffix.fraction

    def _n_checked(self, seen: SeenPrompt) -> int:
        return min(self.budget, seen.n_active)


def position_share(seen: SeenPrompt) -> Float[Tensor, " active"]:
    """Return the share of positions that an ablation of each latent runs."""
    opens = seen.first_open(torch.arange(seen.n_active, device=seen.codes.device))
    begins = torch.tensor([seen.suffix.begin(start) for start in opens.tolist()])
    return (1 - begins / len(seen.codes)).to(seen.codes)


def payable(
    order: Int[Tensor, " part"], price: Float[Tensor, " active"], left: float
) -> Int[Tensor, " first"]:
    """Return the first of an order that can be paid together; `price` is by latent."""
    return order[: int((price[order].cumsum(0) <= left).sum())]


def in_turn(one: Int[Tensor, " n"], other: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return two orders of the same things merged, the next of each in turn, each thing once."""
    merged = torch.stack([one, other], dim=1).flatten()
    place = torch.arange(len(merged), device=merged.device)
    earliest = torch.full_like(one, len(merged)).scatter_reduce(0, merged, place, "amin")
    return earliest.argsort()
