"""Detection: does a feature's latent fire exactly when the feature is active?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.about import Score
from gradsae.interfaces import Scores, Skipped, Source
from gradsae.metrics.common import (
    as_control,
    chance_control,
    count_fired,
    directions,
    encode,
    merge,
)
from gradsae.metrics.matching import MAX_PAIRS, OnMatched, one_to_one
from gradsae.metrics.truth import known_rows
from gradsae.sae.codes import Codes, SparseCodes
from gradsae.sae.dictionary import Dictionary
from gradsae.seeds import make_generator


def matched_latents(
    sae: Dictionary,
    fired: Int[Tensor, " d_sae"],
    features: Float[Tensor, "n_features d_in"],
    max_pairs: int = MAX_PAIRS,
) -> Int[Tensor, " n_features"]:
    """Return the latent of each feature, among those that fire, by cosine; -1 without one."""
    live = (fired > 0).nonzero().squeeze(1)
    latents = directions(sae)[live.to(sae.device)]
    matching = one_to_one(features.to(latents), latents, max_pairs=max_pairs)
    latent_of = torch.full((len(features),), -1)
    latent_of[matching.a] = live[matching.b]
    return latent_of


def shuffled_latents(
    fired: Int[Tensor, " d_sae"], n_features: int, generator: torch.Generator
) -> Int[Tensor, " n_features"]:
    """Return a random one-to-one assignment of latents that fire; -1 where there are too few."""
    live = (fired > 0).nonzero().squeeze(1)
    n = min(n_features, len(live))
    latent_of = torch.full((n_features,), -1)
    features = torch.randperm(n_features, generator=generator)[:n]
    latent_of[features] = live[torch.randperm(len(live), generator=generator)[:n]]
    return latent_of


def active_keys(codes: Codes, column: Int[Tensor, " d_sae"], width: int) -> Int[Tensor, " nnz"]:
    """Return row * width + column of every active entry whose latent has a column (not -1)."""
    if isinstance(codes, SparseCodes):
        used = (codes.values > 0) & (column[codes.latents] >= 0)
        return codes.rows[used] * width + column[codes.latents[used]]
    used = (column >= 0).nonzero().squeeze(1)
    rows, places = (codes.values[:, used] > 0).nonzero(as_tuple=True)
    return rows * width + column[used][places]


def count_hits(
    codes: Codes, truth: SparseCodes, feature_of: Int[Tensor, " d_sae"]
) -> Int[Tensor, " n_features"]:
    """Return the number of rows on which each feature and its latent are both active.

    `feature_of` is the feature that each latent stands for, or -1. Works on the stored entries:
    no batch x d_sae and no batch x n_features matrix is made.
    """
    n, device = truth.d_sae, truth.values.device
    true = active_keys(truth, torch.arange(n, device=device), n).sort().values
    if len(true) == 0:
        return torch.zeros(n, dtype=torch.int64)
    keys = active_keys(codes, feature_of.to(codes.values.device), n).to(device)
    place = torch.searchsorted(true, keys).clamp_max(len(true) - 1)
    hits = keys[true[place] == keys] % n
    return torch.bincount(hits, minlength=n).cpu()


def slice_rows(codes: SparseCodes, start: int, stop: int) -> SparseCodes:
    """Return the codes of rows start to stop."""
    offsets = codes.offsets[start : stop + 1]
    entries = slice(int(offsets[0]), int(offsets[-1]))
    return SparseCodes(
        values=codes.values[entries],
        latents=codes.latents[entries],
        offsets=offsets - offsets[0],
        d_sae=codes.d_sae,
    )


def count_all_hits(
    sae: Dictionary,
    x: Float[Tensor, "batch d_in"],
    truth: SparseCodes,
    latents_of: Mapping[str, Int[Tensor, " n_features"]],
) -> dict[str, Int[Tensor, " n_features"]]:
    """Return the hits of every assignment of latents to features (-1: no latent), in one pass."""
    features_of: dict[str, Tensor] = {}
    for name, latent_of in latents_of.items():
        has_latent = (latent_of >= 0).nonzero().squeeze(1)
        features_of[name] = torch.full((sae.d_sae,), -1)
        features_of[name][latent_of[has_latent]] = has_latent
    hits = {name: torch.zeros_like(latent_of) for name, latent_of in latents_of.items()}
    for start, codes in encode(sae, x):
        part = slice_rows(truth, start, start + codes.n_rows)
        for name, feature_of in features_of.items():
            hits[name] += count_hits(codes, part, feature_of)
    return hits


def score_hits(
    hits: Int[Tensor, " n_features"],
    fired: Int[Tensor, " n_features"],
    active: Int[Tensor, " n_features"],
) -> Scores:
    """Return mean F1, precision and recall over the features that are `active` on some row.

    `fired` is the number of rows on which the feature's latent fires: 0 for a feature without one,
    which scores 0.
    """
    present = active > 0
    hits, fired, active = hits[present], fired[present], active[present]
    each = {
        "detection/f1": 2 * hits / (fired + active),
        "detection/precision": hits / fired.clamp_min(1),
        "detection/recall": hits / active,
    }
    scores = {name: values.double().mean().item() for name, values in each.items()}
    return Scores(scores=scores, n=dict.fromkeys(scores, len(active)))


def score_detectors(
    sae: Dictionary,
    x: Float[Tensor, "batch d_in"],
    truth: SparseCodes,
    features: Float[Tensor, "n_features d_in"],
    generator: torch.Generator,
    max_pairs: int = MAX_PAIRS,
) -> dict[str, Scores]:
    """Score the SAE's latents as detectors of the features they match, and shuffled."""
    fired = count_fired(sae, x)
    latents_of = {
        "matched": matched_latents(sae, fired, features, max_pairs),
        "shuffled": shuffled_latents(fired, len(features), generator),
    }
    scores = {}
    for name, hits in count_all_hits(sae, x, truth, latents_of).items():
        latent_of = latents_of[name]
        fired_by = torch.where(latent_of >= 0, fired[latent_of], 0)
        scores[name] = score_hits(hits, fired_by, truth.fired())
    return scores


@final
@dataclass(frozen=True, kw_only=True)
class Detection(OnMatched):
    """Each true feature's latent as a detector of "the feature is active" on held-out rows.

    The latent is the feature's partner in the one-to-one matching of largest summed signed cosine
    with the latents that fire on those rows. A hit is a row on which both are active.

    - `/chance`: the same SAE with its directions drawn at random (`Dictionary.chance`), matched in
      the same way. An untrained SAE scores there.
    - `/shuffled`: the SAE's latents, assigned at random: what its firing rates alone give.

    Not the F1 of SAELens (`sae_lens/synthetic/evals.py`), which is a mean over latents, each with
    its nearest feature: features that no latent is near cost nothing there.
    """

    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="detection/f1",
            header="F1",
            better="higher",
            low=0,
            high=1,
            meaning=(
                "Each feature's latent as a detector of the feature being active: 2 hits over "
                "(rows fired + rows active), mean over features active on the held-out rows; one "
                "without a latent counts 0."
            ),
        ),
        Score(
            name="detection/precision",
            header="precision",
            better="higher",
            low=0,
            high=1,
            meaning=("Hits over rows on which the feature's latent fires; mean over features."),
        ),
        Score(
            name="detection/recall",
            header="recall",
            better="higher",
            low=0,
            high=1,
            meaning=("Hits over rows on which the feature is active; mean over features."),
        ),
    )

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        truth = known_rows(source, self.n_rows, seed)
        if isinstance(truth, Skipped):
            return truth
        lot = make_generator(seed, "eval shuffled latents")
        scores, chance = (
            score_detectors(each, truth.x, truth.codes, truth.features, lot, self.max_pairs)
            for each in (sae, chance_control(sae, seed))
        )
        rows = Scores(scores={}, n={"detection/rows": len(truth.x)})
        shuffled = as_control(scores["shuffled"], "shuffled")
        return merge([scores["matched"], as_control(chance["matched"]), shuffled, rows])
