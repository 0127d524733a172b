"""The recovery task: the chosen metrics on one SAE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from gradsae.about import plain
from gradsae.interfaces import Candidate, Metric, Scores, Skipped, Source, Task
from gradsae.metrics.once import sharing
from gradsae.sae.dictionary import Dictionary

CURVE = "training/curve"
"""Series with the logged parts of the loss."""


@final
@dataclass(frozen=True, kw_only=True)
class RecoveryTask(Task):
    """What training achieves on one source, by every chosen metric that applies there."""

    name: ClassVar[str] = "recovery"
    version: ClassVar[int] = 1
    question: ClassVar[str] = "Recovery: does a training method find the features that are there?"
    ranked_by: ClassVar[str] = "recovery/mcc"
    headline: ClassVar[tuple[str, ...]] = (
        "recovery/mcc",
        "recovery/frr_0.8",
        "recovery/frr_0.9",
        "recovery/precision_0.9",
        "recovery/rate_error",
        "detection/f1",
        "consistency/mcs_0.9",
        "reconstruction/fvu",
        "lm/ce_recovered",
        "lm/kl",
        "sparsity/l0",
        "sparsity/dead",
    )
    measures_training: ClassVar[bool] = True

    metrics: Mapping[str, Metric]

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("metric must name at least one, got []: metric=[recovery], for one")
        check_metrics(self.metrics)

    def asks(self) -> dict[str, Any]:
        return ask_metrics(self.metrics)

    def measure_all(
        self, candidates: Sequence[Candidate], source: Source, seed: int
    ) -> Scores | Skipped:
        """Measure the only candidate; the series `training/curve` is that of its training."""
        (only,) = candidates
        if isinstance(only.sae, Skipped):
            return only.sae
        answer = measure_metrics(self.metrics, only.sae, source, seed)
        return replace(answer, series={**answer.series, CURVE: dict(only.curve)})


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
