"""Steering on a budget: what does a choice of latents achieve within limits on side effects?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gradsae import checks
from gradsae.about import About, Score
from gradsae.influence.estimator import Estimator
from gradsae.influence.target import NextToken
from gradsae.interfaces import ModelSource, ModelTask, Scores, Skipped, Source
from gradsae.prompts.seen import NoActiveLatentError
from gradsae.prompts.sets import Prompt, PromptSet
from gradsae.sae.dictionary import Dictionary
from gradsae.seeds import make_generator
from gradsae.steering import scores
from gradsae.steering.budget_summary import summarise
from gradsae.steering.climb import Budget, Choice, Climb, Ladder
from gradsae.steering.doses import respond
from gradsae.steering.interventions import Chosen, Intervention, Text, read
from gradsae.steering.ladder import at_budget
from gradsae.steering.matched import match, strength, with_random_directions
from gradsae.steering.selectors import MAIN
from gradsae.steering.side_effects import UnrelatedText, read_unrelated


@final
@dataclass(frozen=True, kw_only=True)
class SteeringBudget(ModelTask):
    """Steering judged without a judge: k latents are raised in steps (mode `add`) until the KL of
    the rest or the perplexity of unrelated text passes its budget.

    Scores of a selector S, an estimator's top k or a control, are named `budget/SCORE/S`: means
    over prompts, 95 % bootstrap. `predicts` and the scores like it are over single latents that are
    steered alone (see `prediction`). `gradsae.steering.scores` says what each means.

    Series: ladder (means by selector and dose), trials (a row per prompt and selector), latents (a
    row per prompt and latent; `prediction` makes its statistics from it).
    """

    name: ClassVar[str] = "steering_budget"
    version: ClassVar[int] = 1
    question: ClassVar[str] = "Steering on a budget: what is got before something else gives way?"
    compares_estimators: ClassVar[bool] = True
    ranked_by: ClassVar[str] = "budget/effect_at_kl"
    headline: ClassVar[tuple[str, ...]] = (
        "budget/effect_at_kl",
        "budget/effect_at_ppl",
        "budget/safe_effect",
        "budget/safe_dose",
        "budget/flips",
        "budget/stability",
        "budget/predicts",
        "budget/slope_gap",
    )
    REFERENCES: ClassVar[Mapping[str, About]] = {
        "random_direction": About(
            label="random direction", family="chance", member=2, is_control=True
        ),
    }
    """What its scores name besides estimators, by name."""
    SCORES: ClassVar[tuple[Score, ...]] = scores.BUDGET_SCORES
    COUNT: ClassVar[str] = "budget/prompts"

    prompts: PromptSet
    estimators: Sequence[Estimator]
    """Estimators that select latents and predict effects; grad_times_act is one of them."""
    k: int = 5
    """Number of latents steered together."""
    doses: Sequence[int | float] = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
    """Rising steps, in units of each latent's largest value on the prompt."""
    kl_budget: int | float = 0.1
    """KL of the next token without the target, nats."""
    ppl_budget: int | float = 1.05
    """Perplexity of unrelated text, steered over clean."""
    n_single: int = 12
    """Number of active latents of each prompt that are steered alone, drawn at random."""
    n_nearest: int = 3
    n_unrelated: int = 2
    unrelated_length: int = 48
    batch_rows: int = 16

    def __post_init__(self) -> None:
        least = {"k": 1, "n_single": 0, "n_nearest": 1, "n_unrelated": 1, "unrelated_length": 2}
        for name, low in (least | {"batch_rows": 3}).items():
            checks.whole(name, getattr(self, name), low)
        checks.number("kl_budget", self.kl_budget, above=0)
        checks.number("ppl_budget", self.ppl_budget, above=1)
        steps = [0, *self.doses]
        if len(steps) < 3 or any(not a < b for a, b in pairwise(steps)):
            raise ValueError(f"doses must be two or more that rise from above 0, got {self.doses}")
        names = [estimator.name for estimator in self.estimators]
        if MAIN not in names or len(set(names)) < len(names):
            raise ValueError(f"estimators must hold {MAIN}, each one once; got {names}")

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        """Raise the choices of every selector on every prompt and summarise.

        `seed` fixes prompts, unrelated text, controls, single latents and bootstrap.
        """
        if not isinstance(source, ModelSource):
            return Skipped(f"{type(source).__name__} has no language model whose output could move")
        sample = self.prompts.draw(source, seed)
        unrelated = read_unrelated(
            source, sae, sample.prompts, self.n_unrelated, self.unrelated_length, seed
        )
        tried = []
        for i, prompt in enumerate(tqdm(sample.prompts, desc="steering budget", disable=None)):
            try:
                text = read(source, sae, prompt.token_ids)
            except NoActiveLatentError:
                continue
            if text.seen.n_active >= 2 * self.k:
                tried.append(self._try(text, prompt, unrelated, i, seed))
        if not tried:
            return Skipped(
                f"on none of {len(sample.prompts)} prompts are 2 x {self.k} latents active"
            )
        names = [estimator.name for estimator in self.estimators]
        climbs = [climb for outcome in tried for climb in outcome.climbs]
        singles = [row for outcome in tried for row in outcome.singles]
        out = summarise(climbs, singles, names, seed)
        out.n["budget/prompts_left_out"] = len(sample.prompts) - len(tried)
        spent = sample.n_tried + (unrelated.read_cost if unrelated else 0.0)
        return replace(out, forward_equivalents=spent + sum(outcome.spent for outcome in tried))

    def _try(
        self, text: Text, prompt: Prompt, unrelated: UnrelatedText | None, index: int, seed: int
    ) -> "_Tried":
        """Climb with every selector on one prompt, and with single latents."""
        target = NextToken(token=prompt.target)
        generator = make_generator(seed, f"eval budget {index}")
        scores = {e.name: e.scores(text.seen, target, generator).detach() for e in self.estimators}
        spent = text.read_cost
        spent += sum(e.forward_equivalents(text.seen) - text.read_cost for e in self.estimators)
        ladder = Ladder(
            doses=self.doses,
            budget=Budget(self.kl_budget, math.log(self.ppl_budget)),
            unrelated=unrelated,
            batch_rows=self.batch_rows,
        )
        climbs = [
            ladder.climb(text, prompt.target, Choice(index, name, chosen))
            for name, chosen in self._choices(text, scores, generator).items()
        ]
        singles, cost = self._singles(text, prompt, scores, index, generator)
        return _Tried(climbs, singles, spent + cost + sum(c.forward_equivalents for c in climbs))

    def _choices(
        self, text: Text, scores: dict[str, Float[Tensor, " active"]], generator: torch.Generator
    ) -> dict[str, Chosen]:
        """Return the top k of every estimator, and controls of the same norms for the main one."""
        tops = {name: values.topk(self.k).indices for name, values in scores.items()}
        chosen = {name: text.choose(columns) for name, columns in tops.items()}
        matched = match(strength(text.seen), tops[MAIN], generator, n_nearest=self.n_nearest)
        assert not isinstance(matched, Skipped)  # at least 2 k latents are active
        chosen["random_matched"] = text.choose(matched.columns)
        chosen["random_direction"] = with_random_directions(chosen[MAIN], generator)
        return chosen

    def _singles(
        self,
        text: Text,
        prompt: Prompt,
        scores: dict[str, Float[Tensor, " active"]],
        index: int,
        generator: torch.Generator,
    ) -> tuple[list[dict[str, Any]], float]:
        """Return one row per latent steered alone: its scores, and its effect at the KL budget."""
        rows, spent = [], 0.0
        order = torch.randperm(text.seen.n_active, generator=generator)
        steps = [Intervention(mode="add", dose=dose) for dose in self.doses]
        for column in order[: self.n_single].to(text.seen.latents.device):
            chosen = text.choose(column[None])
            response = respond(text, prompt.target, chosen, steps, batch_rows=self.batch_rows)
            spent += response.forward_equivalents
            ended = at_budget(response.effect, response.kl_rest, self.kl_budget)
            row = {"prompt": index, "latent": int(text.seen.latents[column])}
            row |= {name: float(values[column]) for name, values in scores.items()}
            rows.append({**row, "effect_at_kl": ended.value, "reached": ended.reached})
        return rows, spent


class _Tried(NamedTuple):
    climbs: list[Climb]
    singles: list[dict[str, Any]]
    spent: float
