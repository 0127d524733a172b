"""One prompt studied: the true effects, every estimate of them, and how well they agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.errors import UserError
from gradsae.influence import ablation, agreement
from gradsae.influence.ablation import N_JITTERED, Ablation, ablate, rounding_noise
from gradsae.influence.estimator import Estimator
from gradsae.influence.target import Target
from gradsae.interfaces import Skipped
from gradsae.prompt import SeenPrompt
from gradsae.prompts import Prompt
from gradsae.seeds import make_generator


class Settings(NamedTuple):
    """See the fields of `Influence`."""

    estimators: Sequence[Estimator]
    ks: Sequence[int]
    batch_rows: int
    max_latents: int | None
    seed: int


class Question(NamedTuple):
    """What is asked of one prompt."""

    prompt: Prompt
    target: Target
    target_prob: float
    """Probability of the target token in the clean pass."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Vectors run over the ablated latents; dictionaries are keyed by the estimator's name."""

    index: int
    question: Question
    n_active: int
    latents: Int[Tensor, " ablated"]
    effect: Float[Tensor, " ablated"]
    noise: float
    """See `rounding_noise`."""
    estimates: Mapping[str, Float[Tensor, " ablated"]]
    agreement: Mapping[str, float | Skipped]
    """By "measure/estimator", for example "spearman/grad_times_act"."""
    cost: Mapping[str, float]
    """Forward-equivalents of each estimator alone, and of "ablation"."""
    spent: float
    """Forward-equivalents that this case took."""


def study(seen: SeenPrompt, question: Question, index: int, settings: Settings) -> Case:
    """Ablate the active latents (a random `max_latents` of them) and compare every estimate."""
    estimators, ks, batch_rows, max_latents, seed = settings
    target, n_active = question.target, seen.n_active
    columns = chosen_columns(n_active, max_latents, make_generator(seed, f"eval ablate {index}"))
    truth = ablate(seen, target, columns.to(seen.latents.device), batch_rows=batch_rows)
    estimates = {
        e.name: _scores(e, seen, target, make_generator(seed, f"eval {e.name} {index}"))
        for e in estimators
    }
    estimates = {name: scores[columns] for name, scores in estimates.items()}
    effect = truth.effect.cpu()
    return Case(
        index=index,
        question=question,
        n_active=n_active,
        latents=seen.latents.cpu()[columns],
        effect=effect,
        noise=rounding_noise(seen, target, make_generator(seed, f"eval noise {index}")),
        estimates=estimates,
        agreement=compare(estimates, effect, ks, n_active),
        cost={e.name: e.forward_equivalents(seen) for e in estimators}
        | {"ablation": ablation.forward_equivalents(seen, torch.arange(n_active))},
        spent=_spent(seen, truth, estimators),
    )


def compare(
    estimates: Mapping[str, Float[Tensor, " ablated"]],
    effect: Float[Tensor, " ablated"],
    ks: Sequence[int],
    n_active: int,
) -> dict[str, float | Skipped]:
    """Return every measure of every estimate; precision only where all latents were ablated."""
    measures = {
        "spearman": agreement.spearman,
        "spearman_abs": agreement.spearman_abs,
        "pearson": agreement.pearson,
        "sign_agreement": agreement.sign_agreement,
    }
    found: dict[str, float | Skipped] = {
        f"{measure}/{name}": agree(estimate, effect)
        for measure, agree in measures.items()
        for name, estimate in estimates.items()
    }
    partly = Skipped("only a part of the active latents was ablated")
    for k in ks:
        precision = partial(agreement.precision_at_k, effect=effect, k=k)
        for name, estimate in estimates.items():
            whole = len(effect) == n_active
            found[f"precision_at_{k}/{name}"] = precision(estimate) if whole else partly
    return found


def chosen_columns(
    n_active: int, max_latents: int | None, generator: torch.Generator
) -> Int[Tensor, " ablated"]:
    """Return the columns to ablate, ascending: all, or `max_latents` drawn at random."""
    order = torch.randperm(n_active, generator=generator)
    return order[:max_latents].sort().values


def _scores(
    estimator: Estimator, seen: SeenPrompt, target: Target, generator: torch.Generator
) -> Float[Tensor, " active"]:
    scores = estimator.scores(seen, target, generator).detach().cpu()
    if not bool(scores.isfinite().all()):
        raise UserError(f"the scores of {estimator.name} are not finite")
    return scores


def _spent(seen: SeenPrompt, truth: Ablation, estimators: Sequence[Estimator]) -> float:
    """The run to the site is made once and shared; a clean pass gave the target's probability.

    One more clean pass gave the keys and values that ablation begins from, where it could.
    """
    fraction = seen.suffix.fraction
    to_site = 1 - fraction
    alone = sum(e.forward_equivalents(seen) - to_site for e in estimators)
    past = float(seen.suffix.begin(1) == 1)
    n_runs = 1 + past + truth.suffix_runs + N_JITTERED + 1
    return to_site + n_runs * fraction + alone
