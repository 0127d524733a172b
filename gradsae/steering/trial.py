"""Trials: one choice of latents on one prompt, under every intervention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from gradsae.steering.doses import Slope, respond, slope
from gradsae.steering.interventions import Intervention, Text
from gradsae.steering.selectors import MAIN, Selection
from gradsae.steering.side_effects import UnrelatedText


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Effects of each intervention; 0 where nothing was changed."""

    prompt: int
    """Index of the prompt."""
    selector: str
    effect: Float[Tensor, " doses"]
    """log p(target | edited) - log p(target | clean), nats."""
    kl_rest: Float[Tensor, " doses"]
    log_ppl_ratio: Float[Tensor, " doses"] | None
    """On unrelated text, nats per token; None where there is no such text."""
    match_gap: float | None
    slope: Slope | None
    """Of the main selector."""
    forward_equivalents: float


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DoseSeries:
    """The interventions that every choice of latents goes through."""

    interventions: Sequence[Intervention]
    unrelated: UnrelatedText | None
    """Text on which side effects are measured, too."""
    batch_rows: int

    def steer(
        self, text: Text, target: int, selector: str, selection: Selection, *, prompt: int
    ) -> Trial:
        """Apply every intervention to the chosen latents, on the prompt and on unrelated text."""
        chosen, rows = selection.chosen, self.batch_rows
        response = respond(text, target, chosen, self.interventions, batch_rows=rows)
        damage = self.unrelated and self.unrelated.damage(
            chosen, self.interventions, batch_rows=rows
        )
        check = slope(text, target, chosen) if selector == MAIN else None
        spent = [selection, response, damage, check]
        return Trial(
            prompt=prompt,
            selector=selector,
            effect=response.effect,
            kl_rest=response.kl_rest,
            log_ppl_ratio=damage.log_ppl_ratio if damage else None,
            match_gap=selection.match_gap,
            slope=check,
            forward_equivalents=sum(part.forward_equivalents for part in spent if part is not None),
        )
