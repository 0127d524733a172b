"""The recovery task: the chosen metrics on one SAE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

from gradsae.about import LATER, plain
from gradsae.interfaces import Candidate, Metric, Scores, Skipped, Source, Task
from gradsae.metrics.along import SERIES, Along
from gradsae.metrics.measuring import ask_metrics, check_metrics, measure_metrics

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
    along: Along | None = field(default=None, metadata=LATER)
    """Looks at the SAE on its way, for the series `along/scores`; None for none."""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("metric must name at least one, got []: metric=[recovery], for one")
        check_metrics(self.metrics)
        if not isinstance(self.along, Along | None):
            raise ValueError(
                f"along must be an Along, got {self.along!r}: choose task=recovery/along"
            )

    def asks(self) -> dict[str, Any]:
        asked = ask_metrics(self.metrics)
        return asked if self.along is None else {**asked, "along": plain(self.along)}

    def rows_along(self, n_rows: int) -> Sequence[int]:
        return self.along.rows(n_rows) if self.along else ()

    def measure_all(
        self, candidates: Sequence[Candidate], source: Source, seed: int
    ) -> Scores | Skipped:
        """Measure the only candidate; the series `training/curve` is that of its training."""
        (only,) = candidates
        if isinstance(only.sae, Skipped):
            return only.sae
        answer = measure_metrics(self.metrics, only.sae, source, seed)
        series = {**answer.series, CURVE: dict(only.curve)}
        if self.along:
            series[SERIES] = self.along.table(self.metrics, only.along, source, seed)
        return replace(answer, series=series)
