"""From studied prompts to scores: means over prompts, intervals, counts and tables for figures."""

from collections import Counter
from collections.abc import Sequence

import torch

from gradsae.influence.case import Case
from gradsae.influence.checked import Checked
from gradsae.influence.listed import Series, latents_of, stacked, tokens_of
from gradsae.interfaces import Scores, Skipped
from gradsae.lm.model import LM
from gradsae.records.shapes import MAX_SERIES_VALUES
from gradsae.seeds import make_generator
from gradsae.stats.intervals import prompts_interval

MAX_CHARACTERS = 2_000
"""Of a prompt in the table of prompts."""
N_LISTED = 10
"""Latents of each ranking in the table of latents."""
IN_TABLE = ("spearman/", "spearman_abs/", "pearson/", "sign_agreement/", "precision_at_")
"""Measures that the table of prompts shows, of the usual truth and scalar."""


def summarise(cases: Sequence[Case], lm: LM, *, seed: int, n_scatter: int, n_pages: int) -> Scores:
    """Return the scores of `Influence`; there must be a case."""
    out = Scores(
        scores={},
        n={"influence/prompts": len(cases)},
        series={
            "influence/per_prompt": per_prompt(cases, lm),
            "influence/scatter": scatter(cases, n_scatter, seed),
        },
        forward_equivalents=sum(case.spent for case in cases),
    )
    for name in dict.fromkeys(name for case in cases for name in case.agreement):
        _add_agreement(out, cases, name, seed)
    for name in cases[0].cost:
        _add_mean(out, f"influence/cost/{name}", [case.cost[name] for case in cases])
    _add_mean(out, "influence/n_active", [float(case.n_active) for case in cases])
    _add_mean(out, "influence/target_prob", [case.question.target_prob for case in cases])
    effects = [case.effect.abs().median().item() for case in cases]
    _add_mean(out, "influence/median_abs_effect", effects)
    clear = [(case.effect.abs() > case.noise).double().mean().item() for case in cases]
    _add_mean(out, "influence/above_noise", clear)
    _add_mean(out, "influence/noise_floor", [case.noise for case in cases])
    _add_mean(out, "influence/noise_floor/no_op_edit", [case.no_op_noise for case in cases])
    _add_mean(out, "influence/joint_effect", [abs(case.joint) for case in cases])
    for name in cases[0].sampling_error:
        errors = [case.sampling_error[name] for case in cases if name in case.sampling_error]
        _add_mean(out, f"influence/sampling_error/{name}", errors)
    recall = recall_after_checks(cases)
    if recall["estimator"]:
        out.series["influence/recall_after_checks"] = recall
    tables = listed_latents(cases[:n_pages])
    if tables:
        out.series["influence/latents"] = stacked(tables)
        out.series["influence/tokens"] = listed_tokens(cases[: len(tables)], lm)
    left_out = left_out_prompts(cases)
    if left_out["score"]:
        out.series["influence/left_out"] = left_out
    return out


def _add_mean(out: Scores, name: str, values: Sequence[float]) -> None:
    out.scores[name] = sum(values) / len(values)
    out.n[name] = len(values)


def _add_agreement(out: Scores, cases: Sequence[Case], name: str, seed: int) -> None:
    """Add the mean over the prompts that have this score, or the reason why none has."""
    full = f"influence/{name}"
    answers = [case.agreement[name] for case in cases if name in case.agreement]
    values = [value for value in answers if not isinstance(value, Skipped)]
    if not values:
        reason, n = Counter(v.reason for v in answers if isinstance(v, Skipped)).most_common(1)[0]
        out.skipped[full] = f"no prompt has this score; on {n} of {len(cases)}: {reason}"
        return
    _add_mean(out, full, values)
    if len(values) > 1:
        out.intervals[full] = prompts_interval(values, seed)


def per_prompt(cases: Sequence[Case], lm: LM) -> Series:
    """Return one row per prompt; a score that a prompt does not have is null."""
    prompts = [case.question.prompt for case in cases]
    table: Series = {
        "prompt": [case.question.index for case in cases],
        "origin": [case.question.prompt.origin for case in cases],
        "text": [case.question.prompt.text[:MAX_CHARACTERS] for case in cases],
        "target": [lm.text([p.target], after=p.token_ids) for p in prompts],
        "target_prob": [case.question.target_prob for case in cases],
        "n_tokens": [len(case.question.prompt.token_ids) for case in cases],
        "n_active": [case.n_active for case in cases],
        "n_ablated": [len(case.effect) for case in cases],
    }
    for name in cases[0].agreement:
        if not name.startswith(IN_TABLE):
            continue
        answers = [case.agreement[name] for case in cases]
        column = [None if isinstance(value, Skipped) else value for value in answers]
        table[name.replace("/", ".")] = column
    return table


def scatter(cases: Sequence[Case], n_points: int, seed: int) -> Series:
    """Return effect and estimates of ablated latents, one row each, `n_points` at random."""
    names = answered(cases[0])
    columns = {
        "prompt": torch.cat([torch.full_like(case.latents, case.question.index) for case in cases]),
        "latent": torch.cat([case.latents for case in cases]),
        "effect": torch.cat([case.effect for case in cases]),
        **{name: torch.cat([case.estimate(name) for case in cases]) for name in names},
    }
    n_points = min(n_points, MAX_SERIES_VALUES // len(columns))
    order = torch.randperm(len(columns["effect"]), generator=make_generator(seed, "eval scatter"))
    chosen = order[:n_points].sort().values
    return {name: values[chosen].tolist() for name, values in columns.items()}


def answered(case: Case) -> list[str]:
    """Return the estimators that have scores for the main target."""
    return [name for name, value in case.estimates.items() if not isinstance(value, Skipped)]


def listed_latents(cases: Sequence[Case]) -> list[Series]:
    """Return one table per prompt: the latents among the first by the truth or an estimator.

    Ranks are among all ablated latents. Prompts that do not fit into one record are left out."""
    tables: list[Series] = []
    n_values = 0
    for case in cases:
        table = latents_of(
            ("prompt", case.question.index),
            case.latents,
            case.peak,
            {"effect": case.effect, **{name: case.estimate(name) for name in answered(case)}},
            first="effect",
            n_listed=N_LISTED,
        )
        n_values += sum(len(column) for column in table.values())
        if n_values > MAX_SERIES_VALUES:
            break
        tables.append(table)
    return tables


def listed_tokens(cases: Sequence[Case], lm: LM) -> Series:
    """Return the tokens of the prompts."""
    return stacked(
        [tokens_of(("prompt", c.question.index), c.question.prompt.token_ids, lm) for c in cases]
    )


def recall_after_checks(cases: Sequence[Case]) -> Series:
    """Return the recall of the true top K after exact checks and its cost, as means over prompts.

    Numbers of checks that exceed some prompt's number of latents are left out.
    """
    rows: dict[tuple[str, int, int], list[Checked]] = {}
    for row in (row for case in cases for row in case.checked):
        rows.setdefault((row.estimator, row.k, row.checks), []).append(row)
    most = max((len(checks) for checks in rows.values()), default=0)
    complete = {key: checks for key, checks in rows.items() if len(checks) == most}
    return {
        "estimator": [name for name, _, _ in complete],
        "k": [k for _, k, _ in complete],
        "checks": [n for _, _, n in complete],
        "cost": [sum(row.cost for row in checks) / most for checks in complete.values()],
        "recall": [sum(row.recall for row in checks) / most for checks in complete.values()],
    }


def left_out_prompts(cases: Sequence[Case]) -> Series:
    """Return how many prompts lack a score, by reason."""
    counts = Counter(
        (f"influence/{name}", value.reason)
        for case in cases
        for name, value in case.agreement.items()
        if isinstance(value, Skipped)
    )
    rows = sorted(counts.items())
    return {
        "score": [score for (score, _), _ in rows],
        "reason": [reason for (_, reason), _ in rows],
        "n_prompts": [n for _, n in rows],
    }
