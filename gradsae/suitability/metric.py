"""Suitability as a metric: the conditions of the theorem as a trained SAE's latents show them."""

from dataclasses import dataclass
from typing import ClassVar, final

from gradsae import checks
from gradsae.about import Score
from gradsae.interfaces import KnownSource, Metric, Scores, Skipped, Source
from gradsae.metrics.common import as_control, merge
from gradsae.sae.dictionary import Dictionary
from gradsae.suitability import conditions, quantities, references
from gradsae.suitability.evidence import Evidence, merged
from gradsae.suitability.quantities import Raw
from gradsae.suitability.theorem import Estimate, exactly


def scores(evidence: Evidence, raw: Raw) -> Scores:
    """Return the numbers behind the verdicts, and how many conditions get which verdict."""
    bounds = conditions.numbers(evidence, raw)
    counted = [
        finding for finding in conditions.findings(evidence, raw, evidence.n) if finding.counts
    ]
    verdicts = [finding.verdict for finding in counted]
    numbers: dict[str, Estimate] = {
        "s_p99": quantities.p99_interval(evidence.codes),
        "rate_ratio": conditions.rate_ratio(evidence),
        "size_ratio": quantities.size_ratio(evidence.codes),
        "co_occurrence": quantities.co_occurrence(evidence.codes).scaled(evidence.n**0.5),
        "coherence": exactly(quantities.coherence(evidence.directions)),
        "effective_d": raw.effective_d,
        "band_low": exactly(max(bounds.band.low, bounds.middle_rate)),
        "band_high": exactly(bounds.band.high),
        "met": exactly(verdicts.count("met") / len(verdicts)),
        "not_met": exactly(verdicts.count("not met") / len(verdicts)),
    }
    named = {f"suitability/{name}": number for name, number in numbers.items()}
    spread = {
        name: number for name, number in named.items() if number.low < number.high < float("inf")
    }
    return Scores(
        scores={name: number.value for name, number in named.items()},
        intervals={name: (number.low, number.high) for name, number in spread.items()},
        n=dict.fromkeys(named, evidence.codes.n_rows),
    )


@final
@dataclass(frozen=True, kw_only=True)
class Suitability(Metric):
    """The conditions of the recovery theorem, counted on the latents of an SAE: circular.

    Reference: Chen et al. 2025, https://arxiv.org/abs/2506.14002, Definition 5.2, Theorem 6.1. The
    estimates are the SAE's (its width bounds n, its gate decides s), so compare SAEs of different
    methods; where the source's features are known, the same scores of the truth stand beside them
    under `/truth`. Neither direction is better: these describe data, not the SAE.

    - `suitability/s_p99` from 0: active features of a row, 99th percentile.
    - `suitability/rate_ratio`, `_size_ratio` from 1: largest over least rate (5 % tails left out
      where rates are counted), and mean h^2 where active.
    - `suitability/co_occurrence` from 0: rho_2 sqrt(n); the theorem wants it far below 1.
    - `suitability/coherence` in [0, 1]: largest |cosine| of two features.
    - `suitability/effective_d` from 1: participation ratio of the centred activations.
    - `suitability/band_low`, `_band_high`: target rates the theorem admits; empty if low > high.
    - `suitability/met`, `_not_met` in [0, 1]: share of the conditions with that verdict.
    """

    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="suitability/s_p99",
            header="active features",
            better="",
            low=0,
            meaning=("99th percentile of the number of active features of a row."),
        ),
        Score(
            name="suitability/rate_ratio",
            header="rate ratio",
            better="",
            low=1,
            meaning=("Largest over least firing rate."),
        ),
        Score(
            name="suitability/size_ratio",
            header="size ratio",
            better="",
            low=1,
            meaning=("Largest over least mean square where active."),
        ),
        Score(
            name="suitability/co_occurrence",
            header="co-occurrence",
            better="",
            low=0,
            meaning=("rho_2 times the root of n; the theorem wants it far below 1."),
        ),
        Score(
            name="suitability/coherence",
            header="coherence",
            better="",
            low=0,
            high=1,
            meaning=("Largest absolute cosine of two features."),
        ),
        Score(
            name="suitability/effective_d",
            header="effective dimensions",
            better="",
            low=1,
            meaning=("Participation ratio of the centred activations."),
        ),
        Score(
            name="suitability/band_low",
            header="lowest rate",
            better="",
            meaning=("Lowest target rate that the theorem admits."),
        ),
        Score(
            name="suitability/band_high",
            header="highest rate",
            better="",
            meaning=("Highest target rate that the theorem admits."),
        ),
        Score(
            name="suitability/met",
            header="met",
            better="",
            low=0,
            high=1,
            meaning=("Share of the conditions that are met."),
        ),
        Score(
            name="suitability/not_met",
            header="not met",
            better="",
            low=0,
            high=1,
            meaning=("Share of the conditions that are not met."),
        ),
    )

    n_rows: int = 16_384
    """Held-out rows."""

    def __post_init__(self) -> None:
        checks.whole("n_rows", self.n_rows, 1)

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        sample = source.held_out(self.n_rows, seed)
        x = (sample.x if sample.outlier is None else sample.x[~sample.outlier]).float()
        if len(x) < quantities.LEAST_ROWS:
            return Skipped(f"{len(x)} held-out rows are fewer than {quantities.LEAST_ROWS}")
        family = merged(references.latents(sae, x))
        if family.n < 2:
            return Skipped(f"{family.n} latents are active on the held-out rows; two are needed")
        raw = quantities.raw(x)
        parts = [scores(family, raw)]
        if isinstance(source, KnownSource) and sample.truth is not None:
            true = Evidence(
                family="true features",
                directions=source.features(),
                codes=sample.truth,
                rates=source.rates(),
            )
            parts.append(as_control(scores(true, raw), "truth"))
        return merge(parts)
