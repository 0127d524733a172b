"""Choose the latents that are steered on a prompt: by an estimator, or as a matched control.

The config key `selectors` of the task `steering` is part of record ids, so it keeps its name. Each
name in it is an estimator of influence or one of `CONTROLS`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.errors import UserError
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.target import NextToken
from gradsae.interfaces import Skipped
from gradsae.steering.interventions import Chosen, Text
from gradsae.steering.matched import match, strength, with_random_directions

MAIN = "grad_times_act"
"""The estimator that the plain scores belong to and that the controls are matched to."""
CONTROLS = ("random_matched", "random_direction")


ESTIMATORS: Mapping[str, Estimator] = {e.name: e for e in (GradTimesAct(), MeanAct())}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The latents that one selector chose on one prompt."""

    chosen: Chosen
    forward_equivalents: float = 0.0
    match_gap: float | None = None
    """Of random_matched: mean |log strength ratio| to the main choice; 0 is a perfect match."""


def check_selectors(selectors: Sequence[str]) -> None:
    """Raise ValueError unless the names are known, distinct and hold the main estimator."""
    if isinstance(selectors, str) or MAIN not in selectors:
        raise ValueError(f"selectors must be a list with {MAIN} in it, got {selectors!r}")
    for name in selectors:
        checks.one_of("selectors", name, (*ESTIMATORS, *CONTROLS))
    if len(set(selectors)) < len(selectors):
        raise ValueError(f"selectors must not repeat, got {list(selectors)}")


def top(scores: Float[Tensor, " active"], k: int) -> Int[Tensor, " k"]:
    """Return the columns of the k largest scores; UserError where fewer latents are active."""
    if len(scores) < k:
        raise UserError(f"steering {k} latents needs as many active ones, there are {len(scores)}")
    return scores.topk(k).indices


def select(
    text: Text,
    target: int,
    selectors: Sequence[str],
    generator: torch.Generator,
    *,
    k: int,
    n_nearest: int,
) -> dict[str, Selection | Skipped]:
    """Choose k latents by each selector, or return why there is no choice."""
    next_token = NextToken(token=target)
    main = top(ESTIMATORS[MAIN].scores(text.seen, next_token, generator), k)
    chosen: dict[str, Selection | Skipped] = {}
    for name in selectors:
        if name == "random_matched":
            chosen[name] = _matched(text, main, generator, n_nearest)
        elif name == "random_direction":
            directions = with_random_directions(text.choose(main), generator)
            chosen[name] = Selection(chosen=directions)
        else:
            estimator = ESTIMATORS[name]
            is_main = name == MAIN
            scores = None if is_main else estimator.scores(text.seen, next_token, generator)
            columns = main if scores is None else top(scores, k)
            cost = estimator.forward_equivalents(text.seen) - text.read_cost
            chosen[name] = Selection(chosen=text.choose(columns), forward_equivalents=cost)
    return chosen


def _matched(
    text: Text, main: Int[Tensor, " k"], generator: torch.Generator, n_nearest: int
) -> Selection | Skipped:
    matched = match(strength(text.seen), main, generator, n_nearest=n_nearest)
    if isinstance(matched, Skipped):
        return matched
    gap = matched.log_ratio.abs().mean().item()
    return Selection(chosen=text.choose(matched.columns), match_gap=gap)
