"""Rankings: the order in which the latents of a question are switched off.

A ranking is by an estimator of influence on the answer, by the GradSAE release's score of the
answer format's mark, or by the true effect of each latent alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.errors import UserError
from gradsae.influence.ablation import ablate
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.screen_then_verify import alternate
from gradsae.influence.gradient import gradient, write_norms
from gradsae.influence.target import NextToken, Target
from gradsae.masking.masked import mask_columns, score
from gradsae.prompts.seen import SeenPrompt

ORACLE, GREEDY, MARK, RANDOM = "oracle", "oracle_greedy", "released_mark", "random"


class Ranked(NamedTuple):
    scores: dict[str, Float[Tensor, " active"]]
    """By the ranking's name; larger = supports the answer more."""
    forward_equivalents: float
    """Cost beyond reading the question up to the site."""


def mark_target(token: int, n_answer: int) -> NextToken:
    """Return the probability of the mark, which is predicted one token before the answer."""
    return NextToken(token=token, scalar="prob", position=-(n_answer + 1))


def released_mark(seen: SeenPrompt, mark: NextToken) -> Float[Tensor, " active"]:
    """Return the score of the GradSAE release as it is run there: mean over positions of
    relu(gradient x activation) of the probability of the answer format's opening bracket.

    Positions after the mark have no gradient, so they change the mean by a factor, not the order.
    """
    return (gradient(seen, mark, seen.codes[None])[0] * seen.codes).relu().mean(0)


@final
@dataclass(frozen=True, kw_only=True)
class Ranker:
    """The rankings that are compared; see the fields of `Masking`."""

    estimators: Sequence[Estimator]
    oracle: bool
    n_checked: int | None
    n_greedy: int
    batch_rows: int

    def rank(
        self,
        seen: SeenPrompt,
        target: Target,
        mark: NextToken | None,
        generator: torch.Generator,
    ) -> Ranked:
        """Return every ranking of one question and their cost. UserError if one is not finite."""
        scores = {e.name: e.scores(seen, target, generator).detach() for e in self.estimators}
        cost = sum(_beyond_reading(e, seen) for e in self.estimators)
        if mark is not None:
            scores[MARK] = released_mark(seen, mark)
            cost += _beyond_reading(GradTimesAct(), seen)
        if self.oracle:
            scores[ORACLE], oracle_cost = self._oracle(seen, target, generator)
            cost += oracle_cost
        if self.oracle and self.n_greedy:
            scores[GREEDY], n_reruns = greedy(
                seen, target, scores[ORACLE], self.n_greedy, batch_rows=self.batch_rows
            )
            cost += n_reruns * seen.rerun.fraction
        _check(scores)
        return Ranked(scores, cost)

    def _oracle(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> tuple[Float[Tensor, " active"], float]:
        """Return true effects, and their cost; unchecked latents keep gradient x activation."""
        gradients = GradTimesAct()
        screen = gradients.scores(seen, target, generator).detach()
        columns = candidates(seen, screen, self.n_checked)
        truth = ablate(seen, target, columns, batch_rows=self.batch_rows)
        cost = truth.n_reruns * seen.rerun.fraction + _beyond_reading(gradients, seen)
        return screen.index_copy(0, columns, truth.effect), cost


def _beyond_reading(estimator: Estimator, seen: SeenPrompt) -> float:
    return estimator.forward_equivalents(seen) - (1 - seen.rerun.fraction)


def candidates(
    seen: SeenPrompt, screen: Float[Tensor, " active"], n_checked: int | None
) -> Int[Tensor, " checked"]:
    """Return the columns whose true effect is measured, ascending: all, or `n_checked` of them.

    These are alternately the best by the screen and by write norm, because the latents that the
    gradient misses are large ones.
    """
    columns = torch.arange(seen.n_active, device=seen.codes.device)
    if n_checked is None or n_checked >= seen.n_active:
        return columns
    by_score = screen.argsort(descending=True, stable=True)
    by_size = write_norms(seen).argsort(descending=True, stable=True)
    return alternate(by_score, by_size)[:n_checked].sort().values


def greedy(
    seen: SeenPrompt, target: Target, scores: Float[Tensor, " active"], n: int, *, batch_rows: int
) -> tuple[Float[Tensor, " active"], float]:
    """Return scores whose first `n` are in greedy order, and the reruns: at most n (n + 1) / 2.

    Each step switches off the latent that takes most from the target, given those that are off
    already. Only the first n of `scores` (true effects of each alone) are tried, so latents that
    need each other may be missed. Each step looks one latent ahead, so latents that stand in for
    each other still come late.
    """
    candidates_left = scores.argsort(descending=True, stable=True)[:n].tolist()
    order, n_reruns = list[int](), 0.0
    while candidates_left:
        masks = [[*order, column] for column in candidates_left]
        factors = mask_columns(seen.n_active, masks, seen.codes)
        joint = score(seen, [target], factors, batch_rows=batch_rows)
        order.append(candidates_left.pop(int(joint.drop[0].argmax())))
        n_reruns += joint.n_reruns
    places = torch.arange(len(order), 0, -1).to(scores)
    index = torch.tensor(order).to(scores.device)
    return scores.index_copy(0, index, scores.max() + places), n_reruns


def _check(scores: Mapping[str, Float[Tensor, " active"]]) -> None:
    for name, values in scores.items():
        if not bool(values.isfinite().all()):
            raise UserError(
                f"ranking {name} gave {int((~values.isfinite()).sum())} of {len(values)} latents a "
                "value that is not a finite number: take another, or model.dtype=float32"
            )
