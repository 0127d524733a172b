"""One choice of latents, raised step by step on a prompt and on unrelated text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

from jaxtyping import Float
from torch import Tensor

from gradsae.steering.doses import Slope, respond, slope
from gradsae.steering.interventions import Chosen, Intervention, Text
from gradsae.steering.ladder import AtBudget, at_budget, at_cost, last_safe
from gradsae.steering.side_effects import UnrelatedText


class Budget(NamedTuple):
    """How much else may move."""

    kl: float
    """KL of the next token without the target, nats."""
    log_ppl: float
    """Rise of the loss on unrelated text, nats per token."""


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
    n_safe: int
    """Steps before the budget was spent, of KL or of perplexity."""
    at_ppl: AtBudget | None
    """Where the perplexity of unrelated text spends its own budget, whatever the KL."""
    log_ppl_ratio: Float[Tensor, " tried"] | None
    """Of the steps tried on unrelated text: up to the first that spends the KL, and all of them
    where that leaves some of the perplexity."""
    flips: Float[Tensor, " tried"] | None
    stability: Float[Tensor, " tried"] | None
    """Share of positions of unrelated text where the target moves as it does on the prompt."""
    slope: Slope
    forward_equivalents: float

    @property
    def safe_dose(self) -> float:
        """The last dose within the budget; 0 where the first is not."""
        return self.doses[self.n_safe - 1] if self.n_safe else 0.0

    @property
    def safe_effect(self) -> float:
        return self.effect[self.n_safe - 1].item() if self.n_safe else 0.0

    def at_safe(self, values: Float[Tensor, " tried"] | None, none: float) -> float | None:
        """A side effect at the last safe dose; `none` where nothing was safe to do."""
        if values is None:
            return None
        return values[self.n_safe - 1].item() if self.n_safe else none


def climb(
    text: Text,
    target: int,
    chosen: Chosen,
    doses: Sequence[float],
    budget: Budget,
    unrelated: UnrelatedText | None,
    *,
    prompt: int,
    selector: str,
    batch_rows: int,
) -> Climb:
    """Raise the dose of mode `add` in steps, up to the one that spends the budget."""
    steps = [Intervention(mode="add", dose=dose) for dose in doses]
    response = respond(text, target, chosen, steps, batch_rows=batch_rows)
    check = slope(text, target, chosen, mode="add")
    spent = response.forward_equivalents + check.forward_equivalents
    costs = [(response.kl_rest.tolist(), budget.kl)]
    n_tried = min(last_safe(costs) + 1, len(steps))
    rise = flips = stability = at_ppl = None
    if unrelated is not None:
        how = {"batch_rows": batch_rows, "target": target}
        damage = unrelated.damage(chosen, steps[:n_tried], **how)
        if n_tried < len(steps) and bool((damage.log_ppl_ratio <= budget.log_ppl).all()):
            damage = damage.then(unrelated.damage(chosen, steps[n_tried:], **how))
        rise, flips, spent = damage.log_ppl_ratio, damage.flips, spent + damage.forward_equivalents
        assert damage.risen is not None
        effect = response.effect[: len(rise)]
        stability = damage.risen.where(effect > 0, 1 - damage.risen)
        untried = [math.inf] * (len(steps) - len(rise))
        costs.append(([*rise.tolist(), *untried], budget.log_ppl))
        at_ppl = at_cost(effect, rise, budget.log_ppl)
    return Climb(
        prompt=prompt,
        selector=selector,
        doses=doses,
        effect=response.effect,
        kl_rest=response.kl_rest,
        at_kl=at_budget(response.effect, response.kl_rest, budget.kl),
        at_ppl=at_ppl,
        n_safe=last_safe(costs),
        log_ppl_ratio=rise,
        flips=flips,
        stability=stability,
        slope=check,
        forward_equivalents=spent,
    )
