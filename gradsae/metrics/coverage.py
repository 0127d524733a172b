"""Coverage: which share of all true features does the SAE hold, rare and frequent ones apart?"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gradsae import checks
from gradsae.about import Score
from gradsae.interfaces import KnownSource, Metric, Scores, Skipped, Source
from gradsae.metrics.common import as_control, chance_control, directions, merge
from gradsae.metrics.joint import SPARSE_PAIRS, best_f1, join
from gradsae.metrics.matching import max_cosines
from gradsae.metrics.recovery import feature_rate_errors
from gradsae.metrics.truth import Truth, known_rows
from gradsae.sae.dictionary import Dictionary

DECADES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class PerFeature(NamedTuple):
    """How one SAE does on each true feature; NaN where the held-out rows cannot tell."""

    cosine: Float[Tensor, " n_features"]
    """Largest signed cosine with a latent, dead or alive."""
    f1: Float[Tensor, " n_features"]
    """Largest F1 of a latent as its detector; NaN for a feature that is never active."""
    rate_error: Float[Tensor, " n_features"]
    """|p - f| / max(p, f), as in `recovery/rate_error`; NaN for one that is never active."""
    n_rows: int


def per_feature(sae: Dictionary, truth: Truth) -> PerFeature:
    """Judge every true feature on the rows of `truth`."""
    joint, latents = join(sae, truth), directions(sae)
    features, n_rows = truth.features.to(latents), joint.codes.n_rows
    active = joint.truth.fired()
    p, f = (codes.fired().float() / n_rows for codes in (joint.codes, joint.truth))
    error = torch.full_like(f, torch.nan)
    error[active > 0] = feature_rate_errors(latents, p, features, f, SPARSE_PAIRS)[0]
    f1 = torch.where(active > 0, best_f1(joint), torch.nan)
    return PerFeature(max_cosines(features, latents).a, f1, error, n_rows)


def in_bands(
    rates: Float[Tensor, " n_features"], edges: Sequence[int | float]
) -> dict[str, Bool[Tensor, " n_features"]]:
    """Return the features of each band low <= rate < high (<= 1 in a band that ends there)."""
    members = {}
    for low, high in pairwise(edges):
        below = rates <= high if high == 1 else rates < high
        members[f"{low:g}-{high:g}"] = (rates >= low) & below
    return members


def score_coverage(
    features: PerFeature,
    rates: Float[Tensor, " n_features"],
    edges: Sequence[int | float],
    cosine: int | float,
    f1: int | float,
) -> Scores:
    """Scores of `Coverage`, without control."""
    every = {
        "cosine": _above(features.cosine, cosine),
        "f1": _above(features.f1, f1),
        "rate_error": features.rate_error.double(),
    }
    bands = {"": torch.ones(len(rates), dtype=torch.bool), **in_bands(rates, edges)}
    scores, n, skipped = {}, {"coverage/rows": features.n_rows}, {}
    for band, members in bands.items():
        for kind, values in every.items():
            name = f"coverage/{kind}/{band}".rstrip("/")
            numbers = values[members & ~values.isnan()]
            if len(numbers):
                scores[name], n[name] = numbers.mean().item(), len(numbers)
            elif bool(members.any()):
                skipped[name] = f"none of the {int(members.sum())} features is active on these rows"
            else:
                span = f"{rates.min():.2g} to {rates.max():.2g}"
                skipped[name] = f"no feature has a rate in this band; rates run from {span}"
    return Scores(scores=scores, n=n, skipped=skipped)


def _above(values: Float[Tensor, " n"], level: int | float) -> Float[Tensor, " n"]:
    """Return 1 where a value is above the level, 0 where it is not, NaN where there is none."""
    return torch.where(values.isnan(), torch.nan, (values > level).double())


@final
@dataclass(frozen=True, kw_only=True)
class Coverage(Metric):
    """Share of all true features that some latent stands for, by how often the feature is active.

    A feature that no latent comes near counts as not covered, so a small dictionary cannot score 1
    by holding the frequent features only. Each score is given over all features and for each band
    of true rates, low <= rate < high, as `coverage/cosine/0.001-0.01`. A band without a feature is
    skipped, with the rates there are. `/chance`: the same SAE with its directions drawn at random
    (`Dictionary.chance`).
    """

    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="coverage/cosine",
            header="covered by cosine",
            better="higher",
            low=0,
            high=1,
            meaning=(
                "Share of all features with a latent, dead or alive, whose signed cosine is above "
                "the field `cosine`, 0.9 by default."
            ),
        ),
        Score(
            name="coverage/f1",
            header="coverage",
            better="higher",
            low=0,
            high=1,
            meaning=(
                "Share of the features active on the held-out rows with a latent whose F1, as a "
                "detector of the feature, is above the field `f1`, 0.8 by default."
            ),
        ),
        Score(
            name="coverage/rate_error",
            header="rate error of covered",
            better="lower",
            low=0,
            high=1,
            meaning=("`recovery/rate_error`, also over the features of a band of rates."),
        ),
    )

    n_rows: int = 16_384
    edges: Sequence[int | float] = DECADES
    """Edges of the bands of rates, rising, from 0 to 1 or within. A feature outside of all bands
    counts in the scores over all features only."""
    cosine: int | float = 0.9
    f1: int | float = 0.8

    def __post_init__(self) -> None:
        checks.whole("n_rows", self.n_rows, 1)
        checks.share("cosine", self.cosine)
        checks.share("f1", self.f1)
        for edge in self.edges:
            checks.share("edges", edge)
        edges = list(self.edges)
        if len(edges) < 2 or sorted(set(edges)) != edges:
            raise ValueError(f"edges must be two or more rising rates, got {edges}")

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        truth = known_rows(source, self.n_rows, seed)
        if isinstance(truth, Skipped):
            return truth
        assert isinstance(source, KnownSource)
        rates = source.rates().cpu()
        control = chance_control(sae, seed)
        scores, chance = (
            score_coverage(per_feature(each, truth), rates, self.edges, self.cosine, self.f1)
            for each in (sae, control)
        )
        return merge([scores, as_control(chance)])
