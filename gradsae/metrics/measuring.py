"""Several metrics asked of one SAE."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gradsae.about import plain
from gradsae.interfaces import Metric, Scores, Skipped, Source
from gradsae.metrics.once import sharing
from gradsae.sae.dictionary import Dictionary


def check_metrics(metrics: Mapping[str, Metric]) -> None:
    """Raise ValueError for a metric whose settings are given although it was not chosen."""
    for name, metric in metrics.items():
        if not isinstance(metric, Metric):
            raise ValueError(
                f"metric.{name}: it has settings but is not chosen; add it to metric=[...], or "
                f"drop its settings with ~metric.{name}"
            )


def ask_metrics(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Return what metrics ask, as JSON values by their names."""
    return {name: plain(metric) for name, metric in metrics.items()}


def measure_metrics(
    metrics: Mapping[str, Metric], sae: Dictionary, source: Source, seed: int
) -> Scores:
    """Measure one SAE by several metrics; `skipped` tells which of them do not apply."""
    with sharing():
        answers = {name: metric.measure(sae, source, seed) for name, metric in metrics.items()}
    merged = Scores(scores={})
    for name, answer in answers.items():
        if isinstance(answer, Skipped):
            merged.skipped[name] = answer.reason
            continue
        for field in ("scores", "intervals", "n", "series", "skipped"):
            getattr(merged, field).update(getattr(answer, field))
    cost = sum(a.forward_equivalents for a in answers.values() if isinstance(a, Scores))
    return replace(merged, forward_equivalents=cost)
