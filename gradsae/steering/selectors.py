"""Selectors: which latents of a prompt are steered. Rankings pick the top, controls are matched.

The two rankings that every run compares are written out here, in a few lines each, since steering
does not import influence; a test holds them equal to the estimators of the same names there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.errors import UserError
from gradsae.interfaces import Skipped
from gradsae.prompt import SeenPrompt
from gradsae.steering.interventions import Chosen, Text
from gradsae.steering.matched import match, random_directions, strength

MAIN = "grad_times_act"
"""The ranking that the plain scores belong to and that the controls are matched to."""
CONTROLS = ("random_matched", "random_direction")


@final
@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A way to order the active latents of a prompt."""

    scores: Callable[[SeenPrompt, int], Float[Tensor, " active"]]
    """(prompt, target token) -> one score per active latent; the largest are steered."""
    suffix_runs: float
    """Cost beyond reading the prompt, in re-runs of the suffix; a backward counts as two."""


def grad_times_act(seen: SeenPrompt, target: int) -> Float[Tensor, " active"]:
    """Return the sum over positions of signed gradient of log p(target) x code, in nats."""
    codes = seen.codes.detach().requires_grad_()
    with torch.enable_grad():
        last = seen.suffix.logits(seen.activation(codes)[None], [-1])[0, -1]
        (grad,) = torch.autograd.grad(last.log_softmax(-1)[target], codes)
    return (grad * seen.codes).sum(0)


def mean_act(seen: SeenPrompt, target: int) -> Float[Tensor, " active"]:
    """Return the mean code over positions, in the SAE's units; the target plays no part."""
    return seen.codes.mean(0)


RANKINGS: Mapping[str, Ranking] = {
    MAIN: Ranking(scores=grad_times_act, suffix_runs=3.0),
    "mean_act": Ranking(scores=mean_act, suffix_runs=0.0),
}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """What one selector chose on one prompt."""

    chosen: Chosen
    forward_equivalents: float = 0.0
    match_gap: float | None = None
    """Of random_matched: mean |log strength ratio| to the main choice, 0 is a perfect match."""


def check_selectors(selectors: Sequence[str]) -> None:
    """Raise ValueError unless the names are known, distinct and hold the main ranking."""
    if isinstance(selectors, str) or MAIN not in selectors:
        raise ValueError(f"selectors must be a list with {MAIN} in it, got {selectors!r}")
    for name in selectors:
        checks.one_of("selectors", name, (*RANKINGS, *CONTROLS))
    if len(set(selectors)) < len(selectors):
        raise ValueError(f"selectors must be there once each, got {list(selectors)}")


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
    """Choose k latents by each selector, or say why not."""
    main = top(RANKINGS[MAIN].scores(text.seen, target), k)
    chosen: dict[str, Selection | Skipped] = {}
    for name in selectors:
        if name == "random_matched":
            chosen[name] = _matched(text, main, generator, n_nearest)
        elif name == "random_direction":
            directions = random_directions(text.choose(main), generator)
            chosen[name] = Selection(chosen=directions)
        else:
            columns = main if name == MAIN else top(RANKINGS[name].scores(text.seen, target), k)
            cost = RANKINGS[name].suffix_runs * text.seen.suffix.fraction
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
