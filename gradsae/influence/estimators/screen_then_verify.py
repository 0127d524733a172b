"""Screen, then verify: rank by an estimate, then ablate the first few.

Reference: Kramar et al. 2024, AtP*, https://arxiv.org/abs/2403.00745, section 3 (exact verification
of a ranked list). Differs from the paper: verified and unverified scores are in the same units and
stay in one list.

The error of the gradient is the curvature, which grows with the square of what a latent writes. In
early layers of SmolLM2 the latents that it misses are large ones. `first: size` checks the latents
that write most for the cost of their check (best for the rank correlation). `first: both` checks
these and the best by the screen in turn (best for the top).
"""

from dataclasses import dataclass, field
from typing import Literal, final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.about import LATER, About
from gradsae.influence.ablation import ablate, forward_equivalents
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.gradient import write_norms
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt

First = Literal["score", "both", "size"]


@final
@dataclass(frozen=True, kw_only=True)
class ScreenThenVerify(Estimator):
    """Exact for the latents that are checked, the screen's estimate for the rest."""

    budget: int = 16
    """Number of latents that are ablated, all in one batch with an unedited row."""
    screen: Estimator = field(default=GradTimesAct(), metadata=LATER)
    """The estimator that ranks them; its scores must be in units of the target."""
    first: First = field(default="score", metadata=LATER)
    """What is checked first: the best by the screen, the largest for their cost, or in turn."""
    max_cost: float | None = field(default=None, metadata=LATER)
    """Check as many latents as this many full forward passes pay for, screen included; `budget` is
    then not used. A latent costs the share of positions from its first open one on."""

    def __post_init__(self) -> None:
        checks.whole("budget", self.budget, 1)
        if not self.screen.in_units:
            raise ValueError(f"screen must be in units of the target, got {self.screen.name}")
        checks.one_of("first", self.first, get_args(First))
        if self.max_cost is not None:
            checks.number("max_cost", self.max_cost, above=1)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        screen = "screen" if isinstance(self.screen, GradTimesAct) else self.screen.name
        size = self.budget if self.max_cost is None else f"{self.max_cost:g}fe"
        first = {"score": screen, "both": f"{screen}_size", "size": f"{screen}_by_size"}[self.first]
        return f"{first}_verify_{size}"

    @property
    def about(self) -> About:
        screen = "screen" if isinstance(self.screen, GradTimesAct) else self.screen.about.label
        first = {"score": "verify", "both": "verify", "size": "verify the largest"}[self.first]
        screen += " and size" if self.first == "both" else ""
        limit = f"the first {self.budget}" if self.max_cost is None else f"to {self.max_cost:g}"
        return About(
            label=f"{screen}, {first} {limit}",
            family="checked",
            member=["score", "both", "size"].index(self.first),
            paper="https://arxiv.org/abs/2403.00745",
            spends_checks=True,
        )

    @property
    def is_first_order(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.screen.is_first_order

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        scores = self.screen.scores(seen, target, generator)
        checked = self._checked(seen, scores)
        if len(checked):
            scores[checked] = ablate(seen, target, checked, batch_rows=len(checked) + 1).effect
        return scores

    def _checked(
        self, seen: SeenPrompt, scores: Float[Tensor, " active"]
    ) -> Int[Tensor, " checked"]:
        """Return the latents to ablate: the first `budget`, or as many as `max_cost` pays for."""
        order = scores.argsort(descending=True, stable=True)
        if self.first != "score":
            sizes = write_norms(seen) / position_share(seen)
            by_size = sizes.argsort(descending=True, stable=True)
            order = by_size if self.first == "size" else alternate(order, by_size)
        if self.max_cost is None:
            return order[: self._n_checked(seen)]
        budget = self.max_cost - self.screen.forward_equivalents(seen) - seen.rerun.fraction
        return affordable_prefix(order, seen.rerun.fraction * position_share(seen), budget)

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """Return at most this: as if every checked latent opened at position 0, or `max_cost`."""
        screen = self.screen.forward_equivalents(seen)
        if self.max_cost is not None:
            all_of_them = forward_equivalents(seen, torch.arange(seen.n_active)) - 1
            return max(screen, min(self.max_cost, screen + seen.rerun.fraction + all_of_them))
        return screen + (self._n_checked(seen) + 1) * seen.rerun.fraction

    def _n_checked(self, seen: SeenPrompt) -> int:
        return min(self.budget, seen.n_active)


def position_share(seen: SeenPrompt) -> Float[Tensor, " active"]:
    """Return the share of positions that an ablation of each latent runs, in (0, 1]."""
    opens = seen.first_open(torch.arange(seen.n_active, device=seen.codes.device))
    starts = torch.tensor([seen.rerun.rerun_start(start) for start in opens.tolist()])
    return (1 - starts / len(seen.codes)).to(seen.codes)


def affordable_prefix(
    order: Int[Tensor, " part"], costs: Float[Tensor, " active"], budget: float
) -> Int[Tensor, " first"]:
    """Return the longest prefix of an order whose summed cost is within the budget."""
    return order[: int((costs[order].cumsum(0) <= budget).sum())]


def alternate(first: Int[Tensor, " n"], second: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Merge two orders of the same things: the next of each in turn, each thing once."""
    merged = torch.stack([first, second], dim=1).flatten()
    place = torch.arange(len(merged), device=merged.device)
    earliest = torch.full_like(first, len(merged)).scatter_reduce(0, merged, place, "amin")
    return earliest.argsort()
