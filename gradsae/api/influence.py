"""Influence of latents on one prompt: cheap estimates beside exact ablation."""

import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from pkgutil import walk_packages
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.api.prompted import PromptSetup, set_up
from gradsae.api.table import Table, Token
from gradsae.errors import UserError
from gradsae.influence import ablation
from gradsae.influence import estimators as package
from gradsae.influence.compare import compare
from gradsae.influence.estimator import Estimator
from gradsae.influence.scores import ALWAYS, at_k
from gradsae.influence.target import ANY_SCALAR, AnyScalar, Target, make_target
from gradsae.influence.task import Influence
from gradsae.interfaces import Skipped
from gradsae.prompts.seen import SeenPrompt, see_from
from gradsae.seeds import make_generator

DEFAULT = ("grad_times_act", "hop_then_verify")
"""The usual cheap estimate (one backward pass), and the best one that spends ten forward passes."""
SHADED = 10
"""First latents whose activations shade the tokens."""
MEASURES = ("spearman", "precision_at_{k}", "effect_recall_at_{k}", "sign_agreement")
"""Agreement with ablation that the table of estimators shows."""


def influence(
    model: Any,
    sae: Any,
    prompt: str,
    *,
    site: str | None = None,
    target: str | int | None = None,
    estimators: Sequence[str | Estimator] = DEFAULT,
    truth: bool = True,
    scalar: str = "log_prob",
    k: int = 10,
    batch_rows: int = 32,
    seed: int = 0,
) -> Table:
    """Compute how much each active latent supports the model's next token.

    Influence is the target's value with the latent minus without it: switched off at every
    position, the SAE's error held fixed.

    Args:
        model: What `load_model` takes or returns.
        sae: What `load_sae` takes or returns.
        prompt: A text. What comes after it is asked about.
        site: Where the SAE reads, for example "resid_post.15"; by default as the SAE says.
        target: The next token, as text as it follows the prompt (" Paris", with the space) or as
            a number; by default the model's most likely one. Several tokens: the whole answer.
        estimators: Names ("grad_times_act", "hop_then_verify", ...) or objects.
        truth: Also ablate every active latent: a run of the later blocks for each.
        scalar: What of the target is explained: "log_prob" (nats), "logit", "prob", "logit_diff"
            (against the runner-up) or "kl" (whole distribution, nats).
        k: Latents counted as the first, in measures of agreement.
        batch_rows: Edited prompts in one forward pass; less takes less memory.
        seed: Fixes what random estimators draw.

    Returns:
        One row per active latent, by `effect` (else by the first estimator), largest first:
        `latent`, `token` and `position` where it is strongest, `activation` there (SAE units), one
        column per estimator, `effect`. Part `estimators`: cost (forward passes) and agreement.

    Raises:
        UserError: Something named is unknown, the widths differ, or no latent fires.

    Example:
        >>> table = gradsae.influence(model, sae, "The capital of France is", target=" Paris")
        >>> table["latent"][:3], table.parts["estimators"]["spearman"]
    """
    chosen, kind = _chosen(estimators, truth=truth), _checked_scalar(scalar)
    setup = set_up(model, sae, prompt, site, target)
    study = _study(setup, chosen, kind, truth=truth, batch_rows=batch_rows, seed=seed)
    return _table(setup, study, chosen, k)


def _checked_scalar(name: str) -> AnyScalar:
    """Return the scalar of this name; UserError where there is none."""
    for scalar in get_args(AnyScalar):
        if scalar == name:
            return scalar
    raise UserError(f"scalar must be one of {', '.join(ANY_SCALAR)}, got {name!r}")


def _chosen(names: Sequence[str | Estimator], *, truth: bool) -> list[Estimator]:
    """Return the estimators; UserError for a name that is unknown."""
    chosen = [make_estimator(name) for name in names]
    if not chosen and not truth:
        raise UserError("nothing to compute: name an estimator, or set truth=True")
    return chosen


def make_estimator(estimator: str | Estimator) -> Estimator:
    """Return an estimator by the name of its module, with its default settings."""
    if isinstance(estimator, Estimator):
        return estimator
    classes = known_estimators()
    if estimator not in classes:
        raise UserError(f"there is no estimator {estimator!r}; there are {', '.join(classes)}")
    return classes[estimator]()


@lru_cache(maxsize=1)
def known_estimators() -> dict[str, type[Estimator]]:
    """Return the classes of all estimators of this package, by the name of their module."""
    classes: dict[str, type[Estimator]] = {}
    for info in walk_packages(package.__path__, f"{package.__name__}."):
        module = import_module(info.name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ != info.name or inspect.isabstract(cls):
                continue
            if issubclass(cls, Estimator):
                classes[info.name.rpartition(".")[2]] = cls
    return dict(sorted(classes.items()))


class Study(NamedTuple):
    """What was computed on one prompt; vectors run over the active latents."""

    seen: SeenPrompt
    estimates: Mapping[str, Float[Tensor, " active"] | Skipped]
    effect: Float[Tensor, " active"] | None
    cost: Mapping[str, float]


def _study(
    setup: PromptSetup,
    chosen: Sequence[Estimator],
    scalar: AnyScalar,
    *,
    truth: bool,
    batch_rows: int,
    seed: int,
) -> Study:
    """Run the estimators and, for `truth`, the ablations; the draws are those of task influence."""
    seen = see_from(setup.source, setup.placed.sae, setup.token_ids)
    target = _target(setup, seen, scalar)
    estimates: dict[str, Tensor | Skipped] = {}
    for estimator in chosen:
        name = estimator.name
        generator = make_generator(seed, f"eval {name} 0")
        if reason := estimator.why_not(target):
            estimates[name] = Skipped(reason)
        else:
            estimates[name] = estimator.scores(seen, target, generator).detach().cpu()
    cost = {estimator.name: estimator.forward_equivalents(seen) for estimator in chosen}
    effect = None
    if truth:
        columns = torch.arange(seen.n_active, device=seen.latents.device)
        effect = ablation.ablate(seen, target, columns, batch_rows=batch_rows).effect.cpu()
        cost["ablation"] = ablation.forward_equivalents(seen, columns)
    return Study(seen, estimates, effect, cost)


def _target(setup: PromptSetup, seen: SeenPrompt, scalar: AnyScalar) -> Target:
    tokens = (setup.prompt.target, *setup.prompt.rest)
    with torch.no_grad():
        clean = seen.rerun.logits(seen.clean[None], range(-len(tokens), 0))[0]
    return make_target(scalar, tokens, clean)


def _table(setup: PromptSetup, study: Study, chosen: Sequence[Estimator], k: int) -> Table:
    lm, seen = setup.lm, study.seen
    scores = {n: v for n, v in study.estimates.items() if not isinstance(v, Skipped)}
    columns = scores if study.effect is None else {**scores, "effect": study.effect}
    if not columns:
        reasons = [v.reason for v in study.estimates.values() if isinstance(v, Skipped)]
        raise UserError(f"no estimator says anything of this target: {reasons[0]}")
    first = next(reversed(columns.values())) if "effect" in columns else next(iter(scores.values()))
    order = first.argsort(descending=True, stable=True)
    codes = seen.codes.cpu()
    peak = codes.argmax(0)[order]
    texts = lm.tokens.pieces(seen.token_ids.tolist())
    in_units = [estimator.name for estimator in chosen if estimator.in_units]
    labels = {estimator.name: estimator.about.label for estimator in chosen}
    answer = lm.text([setup.prompt.target, *setup.prompt.rest], after=seen.token_ids)
    notes = [
        f"Next: {answer!r}, of whose first token the model gives probability "
        f"{setup.target_prob:.3g}. {seen.n_active} latents of {setup.placed.name} fire.",
        *(f"{n}: {v.reason}." for n, v in study.estimates.items() if isinstance(v, Skipped)),
        *setup.notes,
    ]
    return Table(
        title=f"Influence of latents at {setup.source.place} of {lm.name}",
        columns={
            "latent": seen.latents.cpu()[order].tolist(),
            "token": [texts[i] for i in peak.tolist()],
            "position": peak.tolist(),
            "activation": codes[peak, order].tolist(),
            **{name: values[order].tolist() for name, values in columns.items()},
        },
        headers={**labels, "token": "strongest at", "effect": "true effect"},
        bars=[name for name in columns if name in {"effect", *in_units}],
        notes=notes,
        tokens=_tokens(texts, codes[:, order[:SHADED]], seen.latents.cpu()[order[:SHADED]]),
        parts={"estimators": _estimators(study, chosen, k)},
    )


def _tokens(texts: Sequence[str], codes: Float[Tensor, "pos n"], latents: Tensor) -> list[Token]:
    """Return the tokens, shaded by what the first latents sum to at each."""
    total = codes.sum(1)
    shade = total / total.max().clamp_min(1e-30)
    hints = []
    for position, row in enumerate(codes):
        fire = [f"{int(latents[i])} ({row[i]:.3g})" for i in row.nonzero().flatten().tolist()]
        hints.append(f"position {position}: {', '.join(fire) or 'none of the first latents'}")
    return [Token(t, s, h) for t, s, h in zip(texts, shade.tolist(), hints, strict=True)]


def _estimators(study: Study, chosen: Sequence[Estimator], k: int) -> Table:
    """Return the cost of each estimator and, where the truth is known, its agreement with it."""
    names = [*study.estimates, *(["ablation"] if study.effect is not None else [])]
    columns: dict[str, list[Any]] = {
        "estimator": names,
        "cost": [float(study.cost[name]) for name in names],
    }
    if study.effect is not None:
        units = {estimator.name: estimator.in_units for estimator in chosen}
        agreement = compare(study.estimates, study.effect, [k], in_units=units, whole=True)
        for measure in (name.format(k=k) for name in MEASURES):
            answers = [agreement[measure].get(name) for name in names]
            columns[measure] = [None if isinstance(a, Skipped) else a for a in answers]
    declared = {score.name: score.header for score in (*ALWAYS, *at_k(k))}
    labels = {estimator.name: estimator.about.label for estimator in chosen}
    return Table(
        title="Estimators: cost, and agreement with ablation",
        columns=columns,
        headers={name: declared.get(f"influence/{name}", name) for name in columns},
        labels={"estimator": {**labels, "ablation": Influence.REFERENCES["ablation"].label}},
        notes=["Cost is in full forward passes; a backward pass counts as two."],
    )
