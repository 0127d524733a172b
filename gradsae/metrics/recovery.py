"""Recovery: which of the true features does the dictionary contain?"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.about import Score
from gradsae.interfaces import KnownSource, Scores, Skipped, Source
from gradsae.metrics.common import (
    as_control,
    chance_control,
    count_fired,
    directions,
    held_out,
    merge,
)
from gradsae.metrics.matching import MAX_PAIRS, OnMatched, max_cosines, one_to_one
from gradsae.metrics.truth import unknown
from gradsae.sae.codes import SparseCodes
from gradsae.sae.dictionary import Dictionary

TAUS = (0.8, 0.9, 0.95)
PRECISION_TAU = 0.9
N_CURVE = 41
"""Points of the FRR curve: tau = 0, 0.025, ... 1."""


def frr(best: Float[Tensor, " n_features"], tau: float) -> float:
    """Return the share of true features whose best latent has a signed cosine above `tau`.

    Feature recovery rate of Chen et al. 2025, https://arxiv.org/abs/2506.14002.
    """
    return (best > tau).double().mean().item()


def frr_area(best: Float[Tensor, " n_features"]) -> float:
    """Return the area under FRR(tau) for tau from 0 to 1; in [0, 1], higher is better.

    That integral is exactly the mean over true features of the best cosine, negative ones as 0.
    """
    return best.clamp_min(0).double().mean().item()


def rate_errors(
    p: Float[Tensor, " n"], f: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return |p - f| / max(p, f) and |p - f| for firing rates `p` and true rates `f` > 0."""
    gap = (p - f).abs()
    return gap / torch.maximum(p, f), gap


def score_cosines(
    latents: Float[Tensor, "d_sae d_in"],
    p: Float[Tensor, " d_sae"],
    features: Float[Tensor, "n_features d_in"],
) -> Scores:
    """Return FRR, its area, its curve, and the precision of the latents that fire (p > 0)."""
    best = max_cosines(features, latents).a
    scores = {f"recovery/frr_{tau}": frr(best, tau) for tau in TAUS}
    scores["recovery/frr_area"] = frr_area(best)
    n = dict.fromkeys(scores, len(features))
    taus = [i / (N_CURVE - 1) for i in range(N_CURVE)]
    curve = {"tau": taus, "frr": [frr(best, tau) for tau in taus]}
    live = latents[(p > 0).to(latents.device)]
    name, skipped = f"recovery/precision_{PRECISION_TAU}", {}
    if len(live):
        scores[name] = frr(max_cosines(features, live).b, PRECISION_TAU)
        n[name] = len(live)
    else:
        skipped[name] = "no latent fires on the held-out rows"
    series = {"recovery/frr_curve": curve}
    return Scores(scores=scores, n=n, series=series, skipped=skipped)


def score_mcc(
    latents: Float[Tensor, "d_sae d_in"],
    features: Float[Tensor, "n_features d_in"],
    max_pairs: int = MAX_PAIRS,
) -> Scores:
    """Return MCC over all true features, and the variant that other libraries report."""
    names = ("recovery/mcc", "recovery/mcc/matched")
    signed = one_to_one(features, latents, max_pairs=max_pairs)
    absolute = one_to_one(features, latents, max_pairs=max_pairs, absolute=True)
    return Scores(
        scores={
            names[0]: signed.cosine.double().sum().item() / len(features),
            names[1]: absolute.cosine.double().mean().item(),
        },
        n={names[0]: len(features), names[1]: len(absolute.cosine)},
    )


def feature_rate_errors(
    latents: Float[Tensor, "d_sae d_in"],
    p: Float[Tensor, " d_sae"],
    features: Float[Tensor, "n_features d_in"],
    f: Float[Tensor, " n_features"],
    max_pairs: int = MAX_PAIRS,
) -> tuple[Float[Tensor, " seen"], Float[Tensor, " seen"]]:
    """Return the relative and absolute rate errors of the features that are active (f > 0).

    `p` are the latents' rates. A feature's latent is its partner in the best one-to-one matching
    with the latents that fire; without one its rate counts as 0.
    """
    live = (p > 0).nonzero().squeeze(1)
    matching = one_to_one(features, latents[live.to(latents.device)], max_pairs=max_pairs)
    matched = torch.zeros_like(f)
    matched[matching.a] = p[live[matching.b]]
    return rate_errors(matched[f > 0], f[f > 0])


def score_rates(
    latents: Float[Tensor, "d_sae d_in"],
    p: Float[Tensor, " d_sae"],
    features: Float[Tensor, "n_features d_in"],
    f: Float[Tensor, " n_features"] | None,
    max_pairs: int = MAX_PAIRS,
) -> Scores:
    """Return the rate errors of the latents that fire, matched one to one with the features."""
    names = ("recovery/rate_error", "recovery/rate_error/absolute")
    reason = None
    if f is None:
        reason = "the source's held-out rows come without their true codes"
    elif not bool((f > 0).any()):
        reason = "no true feature is active on the held-out rows"
    if f is None or reason is not None:
        return Scores(scores={}, skipped=dict.fromkeys(names, reason or ""))
    errors = feature_rate_errors(latents, p, features, f, max_pairs)
    means = [error.double().mean().item() for error in errors]
    return Scores(
        scores=dict(zip(names, means, strict=True)), n=dict.fromkeys(names, len(errors[0]))
    )


def score_dictionary(
    sae: Dictionary,
    x: Float[Tensor, "batch d_in"],
    truth: SparseCodes | None,
    features: Float[Tensor, "n_features d_in"],
    max_pairs: int = MAX_PAIRS,
) -> Scores:
    """Return all recovery scores of an SAE on held-out rows, without controls."""
    latents = directions(sae)
    features = features.to(latents)
    p = count_fired(sae, x) / len(x)
    f = None if truth is None else (truth.fired() / len(x)).to(p)
    return merge(
        [
            score_cosines(latents, p, features),
            score_mcc(latents, features, max_pairs),
            score_rates(latents, p, features, f, max_pairs),
        ]
    )


@final
@dataclass(frozen=True, kw_only=True)
class Recovery(OnMatched):
    """How close the latents' directions, and how often they fire, come to the true features.

    The cosine is signed: a latent that points the other way recovers nothing. The feature recovery
    rate (FRR) and its maximum over all latents, also dead ones, are those of the GBA paper. Rates
    are of the same held-out rows, and a feature's latent is its partner in the best one-to-one
    matching with the latents that fire.

    Each score has a control, `/chance` (`_chance` on a variant): the same SAE with its directions
    drawn at random (`Dictionary.chance`). An untrained SAE scores there, exactly so if its biases
    do not depend on its directions (all but GBA with bias_init=quantile).
    """

    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="recovery/frr_0.8",
            header="FRR .8",
            better="higher",
            low=0,
            high=1,
            meaning=(
                "Feature recovery rate: share of true features that some latent, dead or alive, "
                "matches with a signed cosine above 0.8."
            ),
        ),
        Score(
            name="recovery/frr_0.9",
            header="FRR .9",
            better="higher",
            low=0,
            high=1,
            meaning=("The same with a cosine above 0.9."),
        ),
        Score(
            name="recovery/frr_0.95",
            header="FRR .95",
            better="higher",
            low=0,
            high=1,
            meaning=("The same with a cosine above 0.95."),
        ),
        Score(
            name="recovery/frr_area",
            header="FRR area",
            better="higher",
            low=0,
            high=1,
            meaning=("Area under the feature recovery rate over the cosine, from 0 to 1."),
        ),
        Score(
            name="recovery/mcc",
            header="MCC",
            better="higher",
            low=-1,
            high=1,
            meaning=(
                "Signed cosines of the best one-to-one matching with all latents, summed over the "
                "number of true features; a feature without a latent counts 0."
            ),
        ),
        Score(
            name="recovery/mcc/matched",
            header="MCC of matched",
            better="higher",
            low=0,
            high=1,
            meaning=(
                "Mean absolute cosine over the matched pairs only, the MCC of SAELens; features "
                "without a latent cost nothing."
            ),
        ),
        Score(
            name="recovery/precision_0.9",
            header="precision .9",
            better="higher",
            low=0,
            high=1,
            detail=True,
            meaning=("Share of live latents that match some true feature with a cosine above 0.9."),
        ),
        Score(
            name="recovery/rate_error",
            header="rate error",
            better="lower",
            low=0,
            high=1,
            detail=True,
            meaning=(
                "Mean over the features active on the held-out rows of |p - f| / max(p, f), with p "
                "the firing rate of the feature's latent (0 without one) and f that of the feature."
            ),
        ),
        Score(
            name="recovery/rate_error/absolute",
            header="|rate error|",
            better="lower",
            low=0,
            high=1,
            meaning=(
                "Mean over features of |p - f|. Where features are rare, an SAE that never "
                "fires scores well."
            ),
        ),
    )

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        if not isinstance(source, KnownSource):
            return unknown(source)
        x, truth, _ = held_out(source, self.n_rows, seed)
        features = source.features()
        control_sae = chance_control(sae, seed)
        scores = score_dictionary(sae, x, truth, features, self.max_pairs)
        control = score_dictionary(control_sae, x, truth, features, self.max_pairs)
        curve, chance = (part.series["recovery/frr_curve"] for part in (scores, control))
        curve["chance"] = chance["frr"]
        rows = Scores(scores={}, n={"recovery/rows": len(x)})
        return merge([scores, as_control(control), rows])
