"""One prompt studied: the true effects, every estimate of them, and how well they agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.errors import UserError
from gradsae.influence import ablation
from gradsae.influence.ablation import (
    N_JITTERED,
    N_NO_OPS,
    Ablation,
    ablate_all,
    no_op_noise,
    rounding_noise,
)
from gradsae.influence.calibration import completeness_gap
from gradsae.influence.checked import Checked, checked
from gradsae.influence.compare import FEW, Scored, compare
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.contrib.curvature import Curvature, reliability
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.target import Target, evaluate_all
from gradsae.influence.truth import PreparedTruth
from gradsae.interfaces import Skipped
from gradsae.prompts.seen import SeenPrompt
from gradsae.prompts.sets import Prompt
from gradsae.seeds import make_generator

FIRST_ORDER, CURVATURE = GradTimesAct().name, f"{Curvature.prefix}_"
UNRELIABLE = 0.5
"""Reliability ratio above which the gradient is not to be relied on."""
SINGLES = "ablation"
"""Name of plain ablation where it stands as an estimator of the other truths."""


class Settings(NamedTuple):
    """See the fields of `Influence`."""

    estimators: Sequence[Estimator]
    ks: Sequence[int]
    batch_rows: int
    max_latents: int | None
    seed: int
    also_max_cost: float | None = None


class Question(NamedTuple):
    """What is prepared of one prompt."""

    prompt: Prompt
    target: Target
    target_prob: float
    """Probability of the target token in the clean pass."""
    also: Mapping[str, Target] = {}
    """Further scalars of the same logits, by name."""
    truths: Mapping[str, PreparedTruth | Skipped] = {}
    """Further truths of this prompt, by name."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Vectors run over the ablated latents; dictionaries are keyed by the estimator's name."""

    index: int
    question: Question
    n_active: int
    latents: Int[Tensor, " ablated"]
    peak: Int[Tensor, " ablated"]
    """Position at which each is largest."""
    effect: Float[Tensor, " ablated"]
    noise: float
    """See `rounding_noise`."""
    no_op_noise: float
    joint: float
    """Effect of removing all active latents at once."""
    estimates: Scored
    agreement: Mapping[str, float | Skipped]
    """By "measure/estimator", for example "spearman/grad_times_act"; of a further truth and scalar
    "measure.truth.scalar/estimator", where the usual one of the two is not named."""
    cost: Mapping[str, float]
    """Forward-equivalents of each estimator alone, and of "ablation"."""
    checked: Sequence[Checked]
    sampling_error: Mapping[str, float]
    """Of truths that are sampled: mean standard error over mean |effect|."""
    spent: float
    """Cost of this case in full forward passes."""

    def estimate(self, name: str) -> Float[Tensor, " ablated"]:
        """Return the estimate of an estimator that was not skipped."""
        estimate = self.estimates[name]
        assert not isinstance(estimate, Skipped), estimate.reason
        return estimate


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Estimates:
    """Every estimator's scores for one target on one view of the prompt."""

    scores: Mapping[str, Float[Tensor, " active"] | Skipped]
    costs: Sequence[float]
    """In full forward passes; the run up to the site is shared and not counted."""


def estimate_all(
    seen: SeenPrompt, target: Target, index: int, settings: Settings, *, is_extra: bool
) -> Estimates:
    """Run every estimator that has scores for a target.

    `is_extra` says that the scalar or truth is a further one: estimators that cost more than
    `also_max_cost` are then left out. Raises UserError if a score is not finite.
    """
    scores: dict[str, Tensor | Skipped] = {}
    costs, limit = [], settings.also_max_cost if is_extra else None
    for e in settings.estimators:
        if limit is not None and e.forward_equivalents(seen) > limit:
            continue
        if reason := e.why_not(target):
            scores[e.name] = Skipped(reason)
            continue
        generator = make_generator(settings.seed, f"eval {e.name} {index}")
        scores[e.name] = _finite(e.scores(seen, target, generator), e.name)
        costs.append(e.forward_equivalents(seen) - (1 - seen.rerun.fraction))
    return Estimates(scores=scores, costs=costs)


def agree(
    label: str,
    estimates: Scored,
    effect: Float[Tensor, " units"],
    settings: Settings,
    *,
    whole: bool,
    only: Sequence[str] | None,
) -> dict[str, float | Skipped]:
    """Return every measure of agreement by "measure + label/estimator"."""
    in_units = {e.name: e.in_units for e in settings.estimators} | {SINGLES: True}
    answers = compare(estimates, effect, settings.ks, in_units=in_units, whole=whole, only=only)
    return {
        f"{measure}{label}/{name}": answer
        for measure, by_estimator in answers.items()
        for name, answer in by_estimator.items()
    }


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Extra:
    """What further scalars and truths add to a case."""

    agreement: Mapping[str, float | Skipped]
    sampling_error: Mapping[str, float] = field(default_factory=dict)
    costs: Sequence[float] = ()


def study(seen: SeenPrompt, question: Question, index: int, settings: Settings) -> Case:
    """Ablate the active latents (a random `max_latents` of them) and compare every estimate."""
    target, n_active, seed = question.target, seen.n_active, settings.seed
    drawing = make_generator(seed, f"eval ablate {index}")
    columns = chosen_columns(n_active, settings.max_latents, drawing)
    targets = {"": target, **question.also}
    rows = settings.batch_rows
    placed = columns.to(seen.latents.device)
    truths = ablate_all(seen, list(targets.values()), placed, batch_rows=rows)
    effects = dict(zip(targets, (truth.effect.cpu() for truth in truths), strict=True))
    is_whole = len(columns) == n_active
    joint = _joint(seen, target)
    first = estimate_all(seen, target, index, settings, is_extra=False)
    estimates = _at(first.scores, columns)
    agreement = agree("", estimates, effects[""], settings, whole=is_whole, only=None)
    agreement |= _gaps(first.scores, joint, settings.estimators) | _unreliable(first.scores)
    extras = _further_scalars(seen, question, effects, columns, index, settings)
    extras += _further_truths(question, effects if is_whole else None, index, settings)
    cost = {e.name: e.forward_equivalents(seen) for e in settings.estimators}
    recall = checked(seen, estimates, effects[""], settings.ks, cost) if is_whole else []
    costs = list(first.costs)
    for extra in extras:
        agreement |= extra.agreement
        costs += extra.costs
    return Case(
        index=index,
        question=question,
        n_active=n_active,
        latents=seen.latents.cpu()[columns],
        peak=seen.codes.argmax(0).cpu()[columns],
        effect=effects[""],
        noise=rounding_noise(seen, target, make_generator(seed, f"eval noise {index}")),
        no_op_noise=no_op_noise(seen, target, make_generator(seed, f"eval no-op {index}")),
        joint=joint,
        estimates=estimates,
        agreement=agreement,
        cost=cost | {"ablation": ablation.forward_equivalents(seen, torch.arange(n_active))},
        checked=list(recall),
        sampling_error={k: v for extra in extras for k, v in extra.sampling_error.items()},
        spent=sum(costs) + _spent(seen, truths[0]),
    )


def _further_scalars(
    seen: SeenPrompt,
    question: Question,
    effects: Mapping[str, Float[Tensor, " ablated"]],
    columns: Int[Tensor, " ablated"],
    index: int,
    settings: Settings,
) -> list[Extra]:
    """Compare estimates of further scalars with what the same ablations did to them."""
    extras = []
    for scalar, target in question.also.items():
        estimates = estimate_all(seen, target, index, settings, is_extra=True)
        agreement = agree(
            f".{scalar}",
            _at(estimates.scores, columns),
            effects[scalar],
            settings,
            whole=len(columns) == seen.n_active,
            only=FEW,
        )
        extras.append(Extra(agreement=agreement, costs=estimates.costs))
    return extras


def _further_truths(
    question: Question,
    singles: Mapping[str, Float[Tensor, " active"]] | None,
    index: int,
    settings: Settings,
) -> list[Extra]:
    """Measure the further truths for every scalar. `singles`: plain effects of all latents."""
    extras = []
    targets = {"": question.target, **question.also}
    for name, prepared in question.truths.items():
        if isinstance(prepared, Skipped):
            extras.append(Extra(agreement={f"spearman.{name}/{SINGLES}": prepared}))
        else:
            extras += _further_truth(name, prepared, targets, singles, index, settings)
    return extras


def _further_truth(
    name: str,
    prepared: PreparedTruth,
    targets: Mapping[str, Target],
    singles: Mapping[str, Float[Tensor, " active"]] | None,
    index: int,
    settings: Settings,
) -> list[Extra]:
    """Measure one truth for every scalar, and compare the estimates of it."""
    measured = prepared.measure(list(targets.values()), batch_rows=settings.batch_rows)
    errors: dict[str, float] = {}
    if measured.error is not None:
        size = measured.effect[0].abs().mean().clamp_min(1e-30)
        errors[name] = (measured.error[0].mean() / size).item()
    reruns = measured.n_reruns * prepared.seen.rerun.fraction
    extras = [Extra(agreement={}, sampling_error=errors, costs=[reruns])]
    for (scalar, target), effect in zip(targets.items(), measured.effect, strict=True):
        raw = estimate_all(prepared.seen, target, index, settings, is_extra=True)
        estimates: dict[str, Tensor | Skipped] = {
            each: value if isinstance(value, Skipped) else prepared.to_units(value)
            for each, value in raw.scores.items()
        }
        by_ablation = None if singles is None else prepared.predict_from_ablation(singles[scalar])
        if by_ablation is not None:
            estimates[SINGLES] = by_ablation
        label = f".{name}.{scalar}" if scalar else f".{name}"
        agreement = agree(
            label, estimates, effect.cpu(), settings, whole=prepared.is_whole, only=FEW
        )
        extras.append(Extra(agreement=agreement, costs=raw.costs))
    return extras


def chosen_columns(
    n_active: int, max_latents: int | None, generator: torch.Generator
) -> Int[Tensor, " ablated"]:
    """Return the columns to ablate, ascending: all, or `max_latents` drawn at random."""
    order = torch.randperm(n_active, generator=generator)
    return order[:max_latents].sort().values


def _at(scores: Mapping[str, Tensor | Skipped], columns: Tensor) -> dict[str, Tensor | Skipped]:
    return {k: v if isinstance(v, Skipped) else v[columns] for k, v in scores.items()}


def _finite(scores: Float[Tensor, " active"], name: str) -> Float[Tensor, " active"]:
    scores = scores.detach().cpu()
    if not bool(scores.isfinite().all()):
        raise UserError(f"the scores of {name} are not finite")
    return scores


@torch.no_grad()
def _joint(seen: SeenPrompt, target: Target) -> float:
    rows = seen.activation(torch.stack([seen.codes, torch.zeros_like(seen.codes)]))
    value = evaluate_all(seen, [target], rows)[0]
    return (value[0] - value[1]).item()


def _gaps(
    scores: Scored, joint: float, estimators: Sequence[Estimator]
) -> dict[str, float | Skipped]:
    """Return the completeness gap of each estimator in units of the target."""
    found: dict[str, float | Skipped] = {}
    for e in estimators:
        score = scores[e.name]
        if e.in_units:
            gap = score if isinstance(score, Skipped) else completeness_gap(score, joint)
            found[f"completeness_gap/{e.name}"] = gap
    return found


def _unreliable(scores: Scored) -> dict[str, float | Skipped]:
    """Return the share of latents whose reliability ratio, by curvature, is above UNRELIABLE."""
    first = scores.get(FIRST_ORDER)
    if first is None or isinstance(first, Skipped):
        return {}
    found: dict[str, float | Skipped] = {}
    for name, second in scores.items():
        if name.startswith(CURVATURE) and not isinstance(second, Skipped):
            doubtful = reliability(first, 2 * (first - second)) > UNRELIABLE
            found[f"unreliable/{name}"] = doubtful.double().mean().item()
    return found


def _spent(seen: SeenPrompt, truth: Ablation) -> float:
    """Return the cost beside the estimators, in full forward passes.

    The run to the site is made once and shared. Then: a clean pass for the target's probability,
    one for the keys and values where those can be reused, the ablations, the joint removal beside
    an unedited row, and both measures of noise.
    """
    fraction = seen.rerun.fraction
    past = float(seen.rerun.rerun_start(1) == 1)
    n_runs = 1 + past + truth.n_reruns + 2 + (N_JITTERED + 1) + (N_NO_OPS + 1)
    return 1 - fraction + n_runs * fraction
