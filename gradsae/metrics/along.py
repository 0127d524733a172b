"""Scores along one training: what the metrics of recovery say of the SAE on its way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, final

from gradsae import checks
from gradsae.interfaces import Metric, Snapshot, Source
from gradsae.metrics.measuring import measure_metrics

SERIES = "along/scores"
"""One row per look: `rows`, the activations seen, and the scores: `recovery.mcc`, for one."""
VARIANTS = ("recovery/mcc/matched",)
"""Scores with a third part that have a column, too."""


@final
@dataclass(frozen=True, kw_only=True)
class Along:
    """At which rows of a training the SAE is looked at, and on how many held-out rows.

    The looks are at `first` rows, `factor` times as many, and so on, and at the end. Each measures
    those metrics of the task that have a field `n_rows`. The SAE is what a checkpoint of that step
    would be, with the thresholds and running means of its read-out; the training goes on as if
    nobody looked.

    A look is at one training, whose schedule belongs to its whole length: a learning rate that has
    not decayed yet, a penalty that still rises or a dictionary that still grows shows here. What a
    shorter training gives is another cell.
    """

    first: int = 512_000
    """Rows before the first look: 1,000 batches of 512."""
    factor: int | float = 2
    """Rows before a look over those before the one before."""
    n_rows: int = 2048
    """Held-out rows that every metric takes here."""

    def __post_init__(self) -> None:
        checks.whole("along.first", self.first, 1)
        checks.number("along.factor", self.factor, above=1)
        checks.whole("along.n_rows", self.n_rows, 1)

    def rows(self, n_rows: int) -> list[int]:
        """Return the rows before each look of a training of `n_rows`, without the last one."""
        looks, at = [], float(self.first)
        while at < n_rows:
            looks.append(round(at))
            at *= self.factor
        return looks

    def table(
        self, metrics: Mapping[str, Metric], along: Sequence[Snapshot], source: Source, seed: int
    ) -> dict[str, list[Any]]:
        """Return the series: a score that could not be given at a look is None there."""
        cheap = {
            name: cast(Metric, replace(cast(Any, metric), n_rows=self.n_rows))
            for name, metric in metrics.items()
            if hasattr(metric, "n_rows")
        }
        looks = [measure_metrics(cheap, look.load(), source, seed).scores for look in along]
        names = dict.fromkeys(name for scores in looks for name in scores if _is_shown(name))
        return {
            "rows": [look.rows for look in along],
            **{name.replace("/", "."): [scores.get(name) for scores in looks] for name in names},
        }


def _is_shown(score: str) -> bool:
    return score.count("/") == 1 or score in VARIANTS
