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
from gradsae.influence.estimators.curvature import Curvature, reliability
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.target import Target, evaluate_all
from gradsae.influence.truth import Asked
from gradsae.interfaces import Skipped
from gradsae.prompts.seen import SeenPrompt
from gradsae.prompts.sets import Prompt
from gradsae.seeds import make_generator

FIRST_ORDER, CURVATURE = GradTimesAct().name, f"{Curvature.prefix}_"
UNRELIABLE = 0.5
"""Reliability ratio above which the gradient is in doubt."""
SINGLES = "ablation"
"""Plain ablation, standing as an estimator of the other truths."""


class Settings(NamedTuple):
    """See the fields of `Influence`."""

    estimators: Sequence[Estimator]
    ks: Sequence[int]
    batch_rows: int
    max_latents: int | None
    seed: int
    also_max_cost: float | None = None


class Question(NamedTuple):
    """What is asked of one prompt."""

    prompt: Prompt
    target: Target
    target_prob: float
    """Probability of the target token in the clean pass."""
    also: Mapping[str, Target] = {}
    """Further scalars of the same logits, by name."""
    truths: Mapping[str, Asked | Skipped] = {}
    """Further truths, by name."""


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
    """Forward-equivalents that this case took."""

    def estimate(self, name: str) -> Float[Tensor, " ablated"]:
        """Return one estimate that is known to be there."""
        found = self.estimates[name]
        assert not isinstance(found, Skipped), found.reason
        return found


@dataclass
class Notebook:
    """What a case collects on its way."""

    seen: SeenPrompt
    settings: Settings
    index: int
    agreement: dict[str, float | Skipped] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    spent: float = 0.0

    def estimate(
        self, seen: SeenPrompt, target: Target, *, also: bool = True
    ) -> dict[str, Tensor | Skipped]:
        """Run every estimator that has something to say; the run to the site is shared.

        Of further scalars and truths (`also`), those that are not too dear.
        """
        found: dict[str, Tensor | Skipped] = {}
        limit = self.settings.also_max_cost if also else None
        for e in self.settings.estimators:
            if limit is not None and e.forward_equivalents(seen) > limit:
                continue
            if unfit := e.unfit(target):
                found[e.name] = unfit
                continue
            generator = make_generator(self.settings.seed, f"eval {e.name} {self.index}")
            found[e.name] = _finite(e.scores(seen, target, generator), e.name)
            self.spent += e.forward_equivalents(seen) - (1 - seen.suffix.fraction)
        return found

    def note(
        self,
        label: str,
        estimates: Scored,
        effect: Float[Tensor, " units"],
        *,
        whole: bool,
        only: Sequence[str] | None,
    ) -> None:
        """Compare and write down under "measure + label"."""
        units = {e.name: e.in_units for e in self.settings.estimators} | {SINGLES: True}
        ks = self.settings.ks
        found = compare(estimates, effect, ks, in_units=units, whole=whole, only=only)
        for measure, answers in found.items():
            for name, answer in answers.items():
                self.agreement[f"{measure}{label}/{name}"] = answer


def study(seen: SeenPrompt, question: Question, index: int, settings: Settings) -> Case:
    """Ablate the active latents (a random `max_latents` of them) and compare every estimate."""
    target, n_active, seed = question.target, seen.n_active, settings.seed
    book = Notebook(seen=seen, settings=settings, index=index)
    columns = chosen_columns(
        n_active, settings.max_latents, make_generator(seed, f"eval ablate {index}")
    )
    targets = {"": target, **question.also}
    truths = ablate_all(
        seen,
        list(targets.values()),
        columns.to(seen.latents.device),
        batch_rows=settings.batch_rows,
    )
    effects = [truth.effect.cpu() for truth in truths]
    whole = len(columns) == n_active
    joint = _joint(seen, target)
    scores = book.estimate(seen, target, also=False)
    estimates = _at(scores, columns)
    book.note("", estimates, effects[0], whole=whole, only=None)
    book.agreement |= _gaps(scores, joint, settings.estimators)
    book.agreement |= _unreliable(scores)
    for scalar, effect in list(zip(targets, effects, strict=True))[1:]:
        found = _at(book.estimate(seen, targets[scalar]), columns)
        book.note(f".{scalar}", found, effect, whole=whole, only=FEW)
    singles = effects if whole else None
    for name, asked in question.truths.items():
        _ask(book, name, asked, targets, singles)
    cost = {e.name: e.forward_equivalents(seen) for e in settings.estimators}
    return Case(
        index=index,
        question=question,
        n_active=n_active,
        latents=seen.latents.cpu()[columns],
        peak=seen.codes.argmax(0).cpu()[columns],
        effect=effects[0],
        noise=rounding_noise(seen, target, make_generator(seed, f"eval noise {index}")),
        no_op_noise=no_op_noise(seen, target, make_generator(seed, f"eval no-op {index}")),
        joint=joint,
        estimates=estimates,
        agreement=book.agreement,
        cost=cost | {"ablation": ablation.forward_equivalents(seen, torch.arange(n_active))},
        checked=list(checked(seen, estimates, effects[0], settings.ks, cost)) if whole else [],
        sampling_error=book.errors,
        spent=book.spent + _spent(seen, truths[0]),
    )


def _ask(
    book: Notebook,
    name: str,
    asked: Asked | Skipped,
    targets: Mapping[str, Target],
    singles: Sequence[Float[Tensor, " active"]] | None,
) -> None:
    """Measure one more truth for every scalar, and compare the estimates of it."""
    if isinstance(asked, Skipped):
        book.agreement[f"spearman.{name}/{SINGLES}"] = asked
        return
    measured = asked.measure(list(targets.values()), batch_rows=book.settings.batch_rows)
    book.spent += measured.suffix_runs * asked.seen.suffix.fraction
    for i, (scalar, target) in enumerate(targets.items()):
        scores = book.estimate(asked.seen, target)
        estimates: dict[str, Tensor | Skipped] = {
            each: value if isinstance(value, Skipped) else asked.of(value)
            for each, value in scores.items()
        }
        by_ablation = None if singles is None else asked.of_ablation(singles[i])
        if by_ablation is not None:
            estimates[SINGLES] = by_ablation
        effect = measured.effect[i].cpu()
        label = f".{name}.{scalar}" if scalar else f".{name}"
        book.note(label, estimates, effect, whole=asked.is_whole, only=FEW)
    if measured.error is not None:
        size = measured.effect[0].abs().mean().clamp_min(1e-30)
        book.errors[name] = (measured.error[0].mean() / size).item()


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
    """The completeness gap of each estimator in units of the target."""
    found: dict[str, float | Skipped] = {}
    for e in estimators:
        score = scores[e.name]
        if e.in_units:
            gap = score if isinstance(score, Skipped) else completeness_gap(score, joint)
            found[f"completeness_gap/{e.name}"] = gap
    return found


def _unreliable(scores: Scored) -> dict[str, float | Skipped]:
    """Share of latents whose estimated reliability ratio is above UNRELIABLE, by curvature."""
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
    """The run to the site is made once and shared; a clean pass gave the target's probability.

    One more clean pass gave the keys and values that ablation begins from, where it could. Then the
    joint removal beside an unedited row, and both measures of noise.
    """
    fraction = seen.suffix.fraction
    past = float(seen.suffix.begin(1) == 1)
    n_runs = 1 + past + truth.suffix_runs + 2 + (N_JITTERED + 1) + (N_NO_OPS + 1)
    return 1 - fraction + n_runs * fraction
