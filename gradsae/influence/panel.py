"""The panel: the estimators that are compared on the same prompts, and the judgement of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from gradsae.errors import UserError
from gradsae.influence.calibration import completeness_gap
from gradsae.influence.compare import Scored, compare
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.target import Target
from gradsae.interfaces import Skipped
from gradsae.prompts.seen import SeenPrompt
from gradsae.seeds import make_generator

FIRST_ORDER = GradTimesAct().name
SINGLES = "ablation"
"""Name of plain ablation where it stands as an estimator of the other truths."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Estimates:
    """Every estimator's scores for one target on one view of the prompt."""

    scores: Mapping[str, Float[Tensor, " active"] | Skipped]
    costs: Sequence[float]
    """In full forward passes; the run up to the site is shared and not counted."""


@final
@dataclass(frozen=True, kw_only=True)
class Panel:
    """Runs estimators on one prompt after another and judges their scores."""

    estimators: Sequence[Estimator]
    ks: Sequence[int]
    """Of the measures of the first k latents."""
    seed: int
    """With the prompt's index it fixes every random score."""
    also_max_cost: float | None = None
    """Estimators that cost more forward-equivalents than this have no scores for further scalars
    and truths; None for no limit."""

    def estimate(
        self, seen: SeenPrompt, target: Target, index: int, *, is_extra: bool
    ) -> Estimates:
        """Run every estimator that has scores for a target.

        `is_extra` says that the scalar or truth is a further one: see `also_max_cost`. Raises
        UserError if a score is not finite.
        """
        scores: dict[str, Tensor | Skipped] = {}
        costs, limit = [], self.also_max_cost if is_extra else None
        for e in self.estimators:
            if limit is not None and e.forward_equivalents(seen) > limit:
                continue
            if reason := e.why_not(target):
                scores[e.name] = Skipped(reason)
                continue
            generator = make_generator(self.seed, f"eval {e.name} {index}")
            scores[e.name] = _finite(e.scores(seen, target, generator), e.name)
            costs.append(e.forward_equivalents(seen) - (1 - seen.rerun.fraction))
        return Estimates(scores=scores, costs=costs)

    def agreement(
        self,
        label: str,
        estimates: Scored,
        effect: Float[Tensor, " units"],
        *,
        whole: bool,
        only: Sequence[str] | None,
    ) -> dict[str, float | Skipped]:
        """Return every measure of agreement by "measure + label/estimator"."""
        in_units = {e.name: e.in_units for e in self.estimators} | {SINGLES: True}
        answers = compare(estimates, effect, self.ks, in_units=in_units, whole=whole, only=only)
        return {
            f"{measure}{label}/{name}": answer
            for measure, by_estimator in answers.items()
            for name, answer in by_estimator.items()
        }

    def completeness_gaps(self, scores: Scored, joint: float) -> dict[str, float | Skipped]:
        """Return the completeness gap of each estimator in units of the target."""
        gaps: dict[str, float | Skipped] = {}
        for e in self.estimators:
            score = scores[e.name]
            if e.in_units:
                gap = score if isinstance(score, Skipped) else completeness_gap(score, joint)
                gaps[f"completeness_gap/{e.name}"] = gap
        return gaps

    def unreliable(self, scores: Scored) -> dict[str, float | Skipped]:
        """Return the share of unreliable gradients, by each estimator that judges them."""
        shares: dict[str, float | Skipped] = {}
        first_order = scores.get(FIRST_ORDER)
        if first_order is None or isinstance(first_order, Skipped):
            return shares
        for e in self.estimators:
            score = scores[e.name]
            share = None if isinstance(score, Skipped) else e.unreliable_share(score, first_order)
            if share is not None:
                shares[f"unreliable/{e.name}"] = share
        return shares

    def costs(self, seen: SeenPrompt) -> dict[str, float]:
        """Return the cost of each estimator alone, in full forward passes."""
        return {e.name: e.forward_equivalents(seen) for e in self.estimators}


def _finite(scores: Float[Tensor, " active"], name: str) -> Float[Tensor, " active"]:
    scores = scores.detach().cpu()
    if not bool(scores.isfinite().all()):
        raise UserError(
            f"estimator {name} gave {int((~scores.isfinite()).sum())} of {len(scores)} latents a "
            "score that is not a finite number: take another, or model.dtype=float32"
        )
    return scores
