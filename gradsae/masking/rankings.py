"""Rankings: the order in which a method would switch off the latents of a question.

Estimators of influence asked about the answer, and what masking compares beside them: the released
score of the format's mark, the truth of each latent alone, and chance.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.errors import UserError
from gradsae.influence.ablation import ablate
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.gradient import gradient, written
from gradsae.influence.estimators.screen_then_verify import in_turn
from gradsae.influence.target import NextToken, Target
from gradsae.masking.masked import mask_columns, score
from gradsae.prompts.seen import SeenPrompt

ORACLE, GREEDY, MARK, RANDOM = "oracle", "oracle_greedy", "released_mark", "random"


class Ranked(NamedTuple):
    scores: dict[str, Float[Tensor, " active"]]
    """By the ranking's name; the largest support the answer most."""
    forward_equivalents: float
    """Beyond reading the question up to the site."""


def mark_target(token: int, n_answer: int) -> NextToken:
    """Return the probability of the mark, which is predicted one token before the answer."""
    return NextToken(token=token, scalar="prob", position=-(n_answer + 1))


def released_mark(seen: SeenPrompt, mark: NextToken) -> Float[Tensor, " active"]:
    """Return the score of the GradSAE release as it is run there: mean over positions of
    relu(gradient x activation) of the probability of the answer format's opening bracket.

    Positions after the mark have no gradient, so they change the mean by a factor, not the order.
    """
    return (gradient(seen, mark, seen.codes[None])[0] * seen.codes).relu().mean(0)


def rank(
    seen: SeenPrompt,
    target: Target,
    mark: NextToken | None,
    estimators: Sequence[Estimator],
    *,
    oracle: bool,
    n_checked: int | None,
    n_greedy: int = 0,
    batch_rows: int,
    generator: torch.Generator,
) -> Ranked:
    """Return every ranking of one question and what they cost; see `Masking` for the oracle."""
    fraction = seen.suffix.fraction
    scores = {e.name: e.scores(seen, target, generator).detach() for e in estimators}
    spent = sum(_beyond_reading(e, seen) for e in estimators)
    if mark is not None:
        scores[MARK] = released_mark(seen, mark)
        spent += _beyond_reading(GradTimesAct(), seen)
    if oracle:
        gradients = GradTimesAct()
        screen = gradients.scores(seen, target, generator).detach()
        columns = candidates(seen, screen, n_checked)
        truth = ablate(seen, target, columns, batch_rows=batch_rows)
        scores[ORACLE] = screen.index_copy(0, columns, truth.effect)
        spent += truth.suffix_runs * fraction + _beyond_reading(gradients, seen)
    if oracle and n_greedy:
        scores[GREEDY], runs = greedy(seen, target, scores[ORACLE], n_greedy, batch_rows=batch_rows)
        spent += runs * fraction
    _check(scores)
    return Ranked(scores, spent)


def _beyond_reading(estimator: Estimator, seen: SeenPrompt) -> float:
    return estimator.forward_equivalents(seen) - (1 - seen.suffix.fraction)


def candidates(
    seen: SeenPrompt, screen: Float[Tensor, " active"], n_checked: int | None
) -> Int[Tensor, " checked"]:
    """Return the columns whose true effect is measured: all, or the most promising ones.

    Those are the first by the screen and the largest by what they write, the next of each in turn:
    where the gradient misses much of an effect, the latent is a large one.
    """
    columns = torch.arange(seen.n_active, device=seen.codes.device)
    if n_checked is None or n_checked >= seen.n_active:
        return columns
    by_score = screen.argsort(descending=True, stable=True)
    by_size = written(seen).argsort(descending=True, stable=True)
    return in_turn(by_score, by_size)[:n_checked].sort().values


def greedy(
    seen: SeenPrompt, target: Target, scores: Float[Tensor, " active"], n: int, *, batch_rows: int
) -> tuple[Float[Tensor, " active"], float]:
    """Return scores whose first `n` go in the order that takes most from the target at each step,
    and the suffix runs that it took: n (n + 1) / 2 at most.

    Only the first n of `scores` are tried, the true effects of each alone: latents that need each
    other are then not all taken. No step looks further than the next, so those that stand in for
    each other are still found late.
    """
    left = scores.argsort(descending=True, stable=True)[:n].tolist()
    order, runs = list[int](), 0.0
    while left:
        kept = mask_columns(seen.n_active, [[*order, column] for column in left], seen.codes)
        found = score(seen, [target], kept, batch_rows=batch_rows)
        order.append(left.pop(int(found.drop[0].argmax())))
        runs += found.suffix_runs
    places = torch.arange(len(order), 0, -1).to(scores)
    return scores.index_copy(0, torch.tensor(order).to(scores.device), scores.max() + places), runs


def _check(scores: Mapping[str, Float[Tensor, " active"]]) -> None:
    for name, values in scores.items():
        if not bool(values.isfinite().all()):
            raise UserError(f"the scores of {name} are not finite")
