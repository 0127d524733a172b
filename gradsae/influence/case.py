"""One prompt studied: the true effects, every estimate of them, and how well they agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence import ablation
from gradsae.influence.ablation import (
    N_JITTERED,
    N_NO_OPS,
    Ablation,
    ablate_all,
    no_op_noise,
    rounding_noise,
)
from gradsae.influence.checked import Checked, checked
from gradsae.influence.compare import EXTRA_MEASURES, Scored
from gradsae.influence.panel import SINGLES, Panel
from gradsae.influence.target import Target, evaluate_all
from gradsae.influence.truth import PreparedTruth
from gradsae.interfaces import Skipped
from gradsae.prompts.seen import SeenPrompt
from gradsae.prompts.sets import Prompt
from gradsae.seeds import make_generator


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What is prepared of one prompt."""

    index: int
    """Of the prompt among those of the task; random draws on it depend on it."""
    prompt: Prompt
    target: Target
    target_prob: float
    """Probability of the target token in the clean pass."""
    also: Mapping[str, Target] = field(default_factory=dict)
    """Further scalars of the same logits, by name."""
    truths: Mapping[str, PreparedTruth | Skipped] = field(default_factory=dict)
    """Further truths of this prompt, by name."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Vectors run over the ablated latents; dictionaries are keyed by the estimator's name."""

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
class Extra:
    """What further scalars and truths add to a case."""

    agreement: Mapping[str, float | Skipped]
    sampling_error: Mapping[str, float] = field(default_factory=dict)
    costs: Sequence[float] = ()


def study(
    seen: SeenPrompt,
    question: Question,
    panel: Panel,
    *,
    batch_rows: int,
    max_latents: int | None = None,
) -> Case:
    """Ablate the active latents (a random `max_latents` of them) and compare every estimate.

    `batch_rows` prompts are run at once.
    """
    target, n_active, seed, index = question.target, seen.n_active, panel.seed, question.index
    columns = chosen_columns(n_active, max_latents, make_generator(seed, f"eval ablate {index}"))
    targets = {"": target, **question.also}
    placed = columns.to(seen.latents.device)
    truths = ablate_all(seen, list(targets.values()), placed, batch_rows=batch_rows)
    effects = dict(zip(targets, (truth.effect.cpu() for truth in truths), strict=True))
    is_whole = len(columns) == n_active
    joint = _joint(seen, target)
    usual = panel.estimate(seen, target, index, is_extra=False)
    estimates = _at(usual.scores, columns)
    agreement = panel.agreement("", estimates, effects[""], whole=is_whole, only=None)
    agreement |= panel.completeness_gaps(usual.scores, joint) | panel.unreliable(usual.scores)
    extras = _further_scalars(seen, question, effects, columns, panel)
    extras += _further_truths(question, effects if is_whole else None, panel, batch_rows)
    cost = panel.costs(seen)
    recall = checked(seen, estimates, effects[""], panel.ks, cost) if is_whole else []
    costs = list(usual.costs)
    for extra in extras:
        agreement |= extra.agreement
        costs += extra.costs
    return Case(
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
    panel: Panel,
) -> list[Extra]:
    """Compare estimates of further scalars with what the same ablations did to them."""
    extras = []
    for scalar, target in question.also.items():
        estimates = panel.estimate(seen, target, question.index, is_extra=True)
        agreement = panel.agreement(
            f".{scalar}",
            _at(estimates.scores, columns),
            effects[scalar],
            whole=len(columns) == seen.n_active,
            only=EXTRA_MEASURES,
        )
        extras.append(Extra(agreement=agreement, costs=estimates.costs))
    return extras


def _further_truths(
    question: Question,
    singles: Mapping[str, Float[Tensor, " active"]] | None,
    panel: Panel,
    batch_rows: int,
) -> list[Extra]:
    """Measure the further truths for every scalar. `singles`: plain effects of all latents."""
    extras = []
    for name, prepared in question.truths.items():
        if isinstance(prepared, Skipped):
            extras.append(Extra(agreement={f"spearman.{name}/{SINGLES}": prepared}))
        else:
            extras += _further_truth(name, prepared, question, singles, panel, batch_rows)
    return extras


def _further_truth(
    name: str,
    prepared: PreparedTruth,
    question: Question,
    singles: Mapping[str, Float[Tensor, " active"]] | None,
    panel: Panel,
    batch_rows: int,
) -> list[Extra]:
    """Measure one truth for every scalar, and compare the estimates of it."""
    targets = {"": question.target, **question.also}
    measured = prepared.measure(list(targets.values()), batch_rows=batch_rows)
    errors: dict[str, float] = {}
    if measured.error is not None:
        size = measured.effect[0].abs().mean().clamp_min(1e-30)
        errors[name] = (measured.error[0].mean() / size).item()
    reruns = measured.n_reruns * prepared.seen.rerun.fraction
    extras = [Extra(agreement={}, sampling_error=errors, costs=[reruns])]
    for (scalar, target), effect in zip(targets.items(), measured.effect, strict=True):
        raw = panel.estimate(prepared.seen, target, question.index, is_extra=True)
        estimates: dict[str, Tensor | Skipped] = {
            estimator: scores if isinstance(scores, Skipped) else prepared.to_units(scores)
            for estimator, scores in raw.scores.items()
        }
        by_ablation = None if singles is None else prepared.predict_from_ablation(singles[scalar])
        if by_ablation is not None:
            estimates[SINGLES] = by_ablation
        label = f".{name}.{scalar}" if scalar else f".{name}"
        agreement = panel.agreement(
            label, estimates, effect.cpu(), whole=prepared.is_whole, only=EXTRA_MEASURES
        )
        extras.append(Extra(agreement=agreement, costs=raw.costs))
    return extras


def chosen_columns(
    n_active: int, max_latents: int | None, generator: torch.Generator
) -> Int[Tensor, " ablated"]:
    """Return the columns to ablate, ascending: all, or `max_latents` drawn at random."""
    order = torch.randperm(n_active, generator=generator)
    return order[:max_latents].sort().values


def _at(scores: Scored, columns: Int[Tensor, " ablated"]) -> dict[str, Tensor | Skipped]:
    return {k: v if isinstance(v, Skipped) else v[columns] for k, v in scores.items()}


@torch.no_grad()
def _joint(seen: SeenPrompt, target: Target) -> float:
    """Return the effect of removing all active latents at once."""
    rows = seen.activation(torch.stack([seen.codes, torch.zeros_like(seen.codes)]))
    value = evaluate_all(seen, [target], rows)[0]
    return (value[0] - value[1]).item()


def _spent(seen: SeenPrompt, truth: Ablation) -> float:
    """Return the cost beside the estimators, in full forward passes.

    The run to the site is made once and shared. Then: a clean pass for the target's probability,
    one for the keys and values where those can be reused, the ablations, the joint removal beside
    an unedited row, and both measures of noise.
    """
    fraction = seen.rerun.fraction
    key_values_pass = float(seen.rerun.rerun_start(1) == 1)
    n_runs = 1 + key_values_pass + truth.n_reruns + 2 + (N_JITTERED + 1) + (N_NO_OPS + 1)
    return 1 - fraction + n_runs * fraction
