"""Scores of an SAE in a notebook: the metrics of the benchmark, with what they mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gradsae.about import Score
from gradsae.api import presets
from gradsae.api.saes import load_sae
from gradsae.api.table import Table
from gradsae.api.train import make_source
from gradsae.errors import UserError
from gradsae.interfaces import Metric, Scores, Skipped, Source
from gradsae.metrics.once import sharing


def score(
    sae: Any,
    source: str | Source | Tensor,
    *,
    metrics: Sequence[str] | Mapping[str, Metric] | None = None,
    seed: int = 0,
) -> Table:
    """Measure an SAE on the held-out activations of a source.

    Args:
        sae: What `load_sae` takes or returns, or what `train` returns.
        source: Name of a source, a source object, or activations as a matrix [n, d_in]. Rows of
            a matrix are all measured on: give rows that training did not see.
        metrics: Names of metrics ("recovery", "detection", "reconstruction", "lm_loss",
            "latents", ...), or metric objects by name; by default those of the command.
        seed: Fixes the world of a named source and which rows are drawn.

    Returns:
        A table with one row per score: `score`, `value`, its 95 % interval `low` to `high` where
        there is one, `n` (rows, latents or windows behind it), and what the metric declares of
        it: the direction that is `better`, its `range` and its `meaning`. A metric that does not
        apply says why in the notes: recovery needs known features, lm_loss a language model.

    Raises:
        UserError: The metric or source is unknown, or the SAE has another width.

    Example:
        >>> gradsae.score(sae, held_out_activations).to_pandas()
    """
    placed, place = load_sae(sae), make_source(source, seed)
    rows = place.held_out(1, seed).x
    if rows.shape[1] != placed.d_in:
        raise UserError(
            f"the SAE {placed.name} has d_in={placed.d_in}, but the activations of source "
            f"{place.name} have width {rows.shape[1]}"
        )
    chosen = make_metrics(metrics)
    with sharing():
        answers = {name: m.measure(placed.sae, place, seed) for name, m in chosen.items()}
    declared = {score.name: score for metric in chosen.values() for score in metric.declared()}
    return _table(f"Scores of {placed.name} on {place.about.label}", answers, declared)


def make_metrics(metrics: Sequence[str] | Mapping[str, Metric] | None) -> dict[str, Metric]:
    """Return metrics by name: those of the command, the named ones, or as they are."""
    if isinstance(metrics, Mapping):
        return dict(metrics)
    if isinstance(metrics, str):
        raise UserError(f"metrics must be a list of names, got {metrics!r}")
    names = presets.names("metric")
    for name in metrics or ():
        if name not in names:
            raise UserError(f"there is no metric {name!r}; there are {', '.join(names)}")
    words = [] if metrics is None else [f"metric=[{','.join(metrics)}]"]
    config = presets.compose(words)
    return {name: presets.instantiated(config, f"metric.{name}") for name in config.metric}


def _table(
    title: str, answers: Mapping[str, Scores | Skipped], declared: Mapping[str, Score]
) -> Table:
    answered = [answer for answer in answers.values() if isinstance(answer, Scores)]
    rows = [
        (
            name,
            value,
            *answer.intervals.get(name, (None, None)),
            answer.n.get(name),
            *_declaration(name, declared),
        )
        for answer in answered
        for name, value in answer.scores.items()
    ]
    heads = ("score", "value", "low", "high", "n", "better", "range", "meaning")
    columns = zip(*rows, strict=True) if rows else [()] * len(heads)
    reasons = {name: a.reason for name, a in answers.items() if isinstance(a, Skipped)}
    for answer in answered:
        reasons |= answer.skipped
    return Table(
        title=title,
        columns=dict(zip(heads, map(list, columns), strict=True)),
        notes=[f"{name}: {reason}." for name, reason in reasons.items()],
    )


def _declaration(name: str, declared: Mapping[str, Score]) -> tuple[str, str, str]:
    """Return direction, range and meaning of a score, or of the score that it is a variant of."""
    score = declared.get(name) or declared.get(name.rpartition("/")[0])
    return (score.better, score.bounds, score.meaning) if score else ("", "", "")
