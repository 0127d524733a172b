"""One choice of latents, raised step by step on a prompt and on unrelated text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

from jaxtyping import Float
from torch import Tensor

from gradsae.steering.doses import Response, Slope, respond, slope
from gradsae.steering.interventions import Chosen, Intervention, Text
from gradsae.steering.ladder import AtBudget, at_budget, at_cost, last_safe
from gradsae.steering.side_effects import Damage, UnrelatedText


class Budget(NamedTuple):
    """How much else may move."""

    kl: float
    """KL of the next token without the target, nats."""
    log_ppl: float
    """Rise of the loss on unrelated text, nats per token."""


class Choice(NamedTuple):
    """The latents that one selector chose on one prompt."""

    prompt: int
    """Index of the prompt."""
    selector: str
    chosen: Chosen


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Climb:
    """What every step did, and where the budget ended it."""

    prompt: int
    selector: str
    doses: Sequence[float]
    effect: Float[Tensor, " doses"]
    """log p(target | edited) - log p(target | clean), nats."""
    kl_rest: Float[Tensor, " doses"]
    at_kl: AtBudget
    """Where the KL of the rest spends its budget."""
    n_safe: int
    """Number of steps before either budget was spent."""
    at_ppl: AtBudget | None
    """Where the perplexity of unrelated text spends its own budget, whatever the KL. None where
    there is no unrelated text, as for the next three."""
    log_ppl_ratio: Float[Tensor, " tried"] | None
    """Of the steps tried on unrelated text: up to the first that spends the KL budget, and all
    steps if those leave some of the perplexity budget."""
    flips: Float[Tensor, " tried"] | None
    """Share of positions of unrelated text whose most likely token changed."""
    stability: Float[Tensor, " tried"] | None
    """Share of positions of unrelated text where the target moves as it does on the prompt."""
    slope: Slope
    forward_equivalents: float

    @property
    def safe_dose(self) -> float:
        """The last dose within the budget; 0 if even the first is not."""
        return self.doses[self.n_safe - 1] if self.n_safe else 0.0

    @property
    def safe_effect(self) -> float:
        """The effect at that dose, in nats."""
        return self.effect[self.n_safe - 1].item() if self.n_safe else 0.0

    def at_safe(self, values: Float[Tensor, " tried"] | None, without: float) -> float | None:
        """Return a side effect at the last safe dose, or `without` if no dose is safe."""
        if values is None:
            return None
        return values[self.n_safe - 1].item() if self.n_safe else without


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Ladder:
    """The steps that every choice is raised by, and what may be spent on the way."""

    doses: Sequence[float]
    """Rising, of mode `add`."""
    budget: Budget
    unrelated: UnrelatedText | None
    batch_rows: int

    @property
    def steps(self) -> list[Intervention]:
        return [Intervention(mode="add", dose=dose) for dose in self.doses]

    def climb(self, text: Text, target: int, choice: Choice) -> Climb:
        """Raise the latents of a choice in steps, up to the one that spends the budget."""
        chosen = choice.chosen
        response = respond(text, target, chosen, self.steps, batch_rows=self.batch_rows)
        check = slope(text, target, chosen, mode="add")
        damage = self._damage(chosen, target, response)
        spent = response.forward_equivalents + check.forward_equivalents
        return Climb(
            prompt=choice.prompt,
            selector=choice.selector,
            doses=self.doses,
            effect=response.effect,
            kl_rest=response.kl_rest,
            at_kl=at_budget(response.effect, response.kl_rest, self.budget.kl),
            n_safe=self._n_safe(response, damage),
            at_ppl=None if damage is None else self._at_ppl(response, damage),
            log_ppl_ratio=None if damage is None else damage.log_ppl_ratio,
            flips=None if damage is None else damage.flips,
            stability=None if damage is None else stability(response, damage),
            slope=check,
            forward_equivalents=spent + (damage.forward_equivalents if damage else 0.0),
        )

    def _damage(self, chosen: Chosen, target: int, response: Response) -> Damage | None:
        """Try steps on unrelated text, as many as the budgets call for."""
        if self.unrelated is None:
            return None
        n_tried = min(self._n_safe(response, None) + 1, len(self.steps))
        first, later = self.steps[:n_tried], self.steps[n_tried:]
        rows = self.batch_rows
        damage = self.unrelated.damage(chosen, first, batch_rows=rows, target=target)
        if later and bool((damage.log_ppl_ratio <= self.budget.log_ppl).all()):
            further = self.unrelated.damage(chosen, later, batch_rows=rows, target=target)
            damage = damage.then(further)
        return damage

    def _n_safe(self, response: Response, damage: Damage | None) -> int:
        """Return the number of steps before a budget is spent. Without damage, the KL's alone."""
        costs = [(response.kl_rest.tolist(), self.budget.kl)]
        if damage is not None:
            untried = [math.inf] * (len(self.doses) - len(damage.log_ppl_ratio))
            costs.append(([*damage.log_ppl_ratio.tolist(), *untried], self.budget.log_ppl))
        return last_safe(costs)

    def _at_ppl(self, response: Response, damage: Damage) -> AtBudget:
        rise = damage.log_ppl_ratio
        return at_cost(response.effect[: len(rise)], rise, self.budget.log_ppl)


def stability(response: Response, damage: Damage) -> Float[Tensor, " tried"]:
    """Return the share of positions of unrelated text where the target moves as on the prompt.

    In [0, 1]; a half is chance.
    """
    assert damage.risen is not None
    effect = response.effect[: len(damage.risen)]
    return damage.risen.where(effect > 0, 1 - damage.risen)
