"""Detection: does a feature's latent fire exactly when the feature is active?"""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.codes import Codes, SparseCodes
from gradsae.interfaces import KnownSource, Metric, Scores, Skipped, Source
from gradsae.metrics.common import (
    control_name,
    count_fired,
    directions,
    encode,
    random_directions,
)
from gradsae.metrics.matching import MAX_PAIRS, Matching, one_to_one, too_large
from gradsae.sae import SAE
from gradsae.seeds import make_generator

COLUMNS = 256
"""Features whose random detectors are run at a time."""


def open_keys(codes: Codes, column: Int[Tensor, " d_sae"], width: int) -> Int[Tensor, " nnz"]:
    """Return row * width + column for every open entry whose latent has a column (not -1)."""
    if isinstance(codes, SparseCodes):
        open_ = codes.values > 0
        rows, latents = codes.rows[open_], codes.latents[open_]
    else:
        used = (column >= 0).nonzero().squeeze(1)
        rows, latents = (codes.values[:, used] > 0).nonzero(as_tuple=True)
        latents = used[latents]
    keys = rows * width + column[latents]
    return keys[column[latents] >= 0]


def slice_rows(codes: SparseCodes, start: int, stop: int) -> SparseCodes:
    """Return the codes of rows start to stop."""
    offsets = codes.offsets[start : stop + 1]
    kept = slice(int(offsets[0]), int(offsets[-1]))
    return SparseCodes(
        values=codes.values[kept],
        latents=codes.latents[kept],
        offsets=offsets - offsets[0],
        d_sae=codes.d_sae,
    )


def count_hits(
    codes: Codes, truth: SparseCodes, feature_of: Int[Tensor, " d_sae"]
) -> Int[Tensor, " n_features"]:
    """Return on how many rows each feature is active while its latent is open.

    `feature_of` is the feature that each latent stands for, or -1. No batch x d_sae matrix is made.
    """
    n = truth.d_sae
    device = truth.values.device
    found = open_keys(codes, feature_of.to(codes.values.device), n).to(device)
    true = open_keys(truth, torch.arange(n, device=device), n)
    both = found[torch.isin(found, true)]
    return torch.bincount(both % n, minlength=n).cpu()


class Detectors(NamedTuple):
    """One linear detector per feature; zero and never firing where there are too few of them."""

    direction: Float[Tensor, "n_features d_in"]
    fired: Int[Tensor, " n_features"]
    """Rows on which it fires: those that it projects highest."""


def random_detectors(
    features: Float[Tensor, "n_features d_in"],
    fired: Int[Tensor, " n_live"],
    generator: torch.Generator,
) -> Detectors:
    """Return random unit directions that fire as often as `fired`, matched with the features."""
    chance = random_directions(len(fired), features.shape[1], generator)
    matching = one_to_one(features, chance)
    direction, fired_by = torch.zeros_like(features), fired.new_zeros(len(features))
    direction[matching.a] = chance[matching.b]
    fired_by[matching.a] = fired[matching.b]
    return Detectors(direction, fired_by)


def linear_hits(
    x_in: Float[Tensor, "batch d_in"], truth: SparseCodes, detectors: Detectors
) -> Int[Tensor, " n_features"]:
    """Return on how many rows each feature is active while its linear detector fires."""
    hits = torch.zeros_like(detectors.fired)
    true = torch.zeros(truth.n_rows, COLUMNS, dtype=torch.bool)
    rank = torch.arange(len(x_in))[:, None]
    active = truth.values > 0
    for start in range(0, len(hits), COLUMNS):
        direction = detectors.direction[start : start + COLUMNS]
        inside = active & (truth.latents >= start) & (truth.latents < start + len(direction))
        true.zero_()[truth.rows[inside], truth.latents[inside] - start] = True
        order = (x_in @ direction.mT).argsort(dim=0, descending=True, stable=True)
        fires = rank < detectors.fired[start : start + COLUMNS]
        hits[start : start + COLUMNS] = (true.gather(0, order) & fires).sum(0)
    return hits


def own_hits(
    sae: SAE,
    x: Float[Tensor, "batch d_in"],
    truth: SparseCodes,
    latents_of: dict[str, Int[Tensor, " n_features"]],
) -> dict[str, Int[Tensor, " n_features"]]:
    """Return the hits of the SAE's latents as detectors, for each assignment (-1: no latent)."""
    features_of: dict[str, Tensor] = {}
    for name, latent_of in latents_of.items():
        has_latent = (latent_of >= 0).nonzero().squeeze(1)
        features_of[name] = torch.full((sae.arch.d_sae,), -1)
        features_of[name][latent_of[has_latent]] = has_latent
    hits = {name: torch.zeros_like(latent_of) for name, latent_of in latents_of.items()}
    for start, codes in encode(sae, x):
        part = slice_rows(truth, start, start + codes.n_rows)
        for name, feature_of in features_of.items():
            hits[name] += count_hits(codes, part, feature_of)
    return hits


def score(
    hits: Int[Tensor, " n_features"],
    fired: Int[Tensor, " n_features"],
    active: Int[Tensor, " n_features"],
    control: str = "",
) -> dict[str, float]:
    """Mean F1, precision and recall over the features that are `active` on some row.

    A feature without a detector has fired = 0 and counts 0 in all three.
    """
    seen = active > 0
    hits, fired, active = hits[seen], fired[seen], active[seen]
    each = {
        "detection/f1": 2 * hits / (fired + active),
        "detection/precision": hits / fired.clamp_min(1),
        "detection/recall": hits / active,
    }
    return {
        control_name(name, control) if control else name: values.double().mean().item()
        for name, values in each.items()
    }


def assign(
    matching: Matching, live: Int[Tensor, " n_live"], n_features: int
) -> Int[Tensor, " n_features"]:
    """Return the latent of each feature, -1 without one, given pairs (feature, place in `live`)."""
    latent_of = torch.full((n_features,), -1)
    latent_of[matching.a] = live[matching.b]
    return latent_of


def shuffled(n_features: int, n_latents: int, generator: torch.Generator) -> Matching:
    """Return a random one-to-one assignment of features to latents."""
    n = min(n_features, n_latents)
    features = torch.randperm(n_features, generator=generator)[:n]
    latents = torch.randperm(n_latents, generator=generator)[:n]
    return Matching(features, latents, torch.zeros(n))


@final
@dataclass(frozen=True, kw_only=True)
class Detection(Metric):
    """Each true feature's latent as a detector of "the feature is active" on held-out rows.

    The latent is the feature's partner in the one-to-one matching of largest summed signed cosine
    with the latents that fire on those rows. All scores are in [0, 1], up, and are means over the
    features that are active on at least one row; a feature without a partner counts 0.

    - `detection/f1` = 2 hits / (rows fired + rows active); `detection/precision` = hits / rows
      fired; `detection/recall` = hits / rows active.
    - `/chance`: random unit directions, as many as latents fire, each as a linear detector on the
      SAE's normalised input that fires exactly as often as its latent; matched in the same way.
    - `/shuffled`: the SAE's own latents, assigned to features at random.

    Not the F1 of SAELens (`sae_lens/synthetic/evals.py`), which is a mean over latents, each with
    its nearest feature: features that no latent is near cost nothing there.
    """

    n_rows: int = 16_384
    max_pairs: int = MAX_PAIRS
    """Largest n_features * (latents that fire) that is matched; above it the metric is skipped."""

    def __post_init__(self) -> None:
        checks.whole("n_rows", self.n_rows, 1)
        checks.whole("max_pairs", self.max_pairs, 1)

    def measure(self, sae: SAE, source: Source, seed: int) -> Scores | Skipped:
        if not isinstance(source, KnownSource):
            return Skipped(f"the true features of {source.name} are not known")
        x, truth, _ = source.held_out(self.n_rows, seed)
        if truth is None:
            return Skipped(f"held-out rows of {source.name} come without their true codes")
        active, fired = truth.fired(), count_fired(sae, x)
        if not bool((active > 0).any()):
            return Skipped("no true feature is active on the held-out rows")
        live = (fired > 0).nonzero().squeeze(1)
        reason = too_large(truth.d_sae, len(live), self.max_pairs)
        if reason is not None:
            return Skipped(reason)
        return _measure(sae, x, truth, source.features(), fired, live, seed)


def _measure(
    sae: SAE,
    x: Float[Tensor, "batch d_in"],
    truth: SparseCodes,
    features: Float[Tensor, "n_features d_in"],
    fired: Int[Tensor, " d_sae"],
    live: Int[Tensor, " n_live"],
    seed: int,
) -> Scores:
    active, n = truth.fired(), truth.d_sae
    latents = directions(sae)[live.to(sae.b_dec.device)].cpu()
    by_lot = shuffled(n, len(live), make_generator(seed, "eval shuffled latents"))
    latents_of = {
        "": assign(one_to_one(features, latents), live, n),
        "shuffled": assign(by_lot, live, n),
    }
    scores: dict[str, float] = {}
    for control, hits in own_hits(sae, x, truth, latents_of).items():
        latent_of = latents_of[control]
        fired_by = torch.where(latent_of >= 0, fired[latent_of], 0)
        scores |= score(hits, fired_by, active, control)
    generator = make_generator(seed, "eval random directions")
    chance = random_detectors(features, fired[live], generator)
    x_in = sae.normaliser.apply(x.to(sae.b_dec)).x.cpu()
    scores |= score(linear_hits(x_in, truth, chance), chance.fired, active, "chance")
    counts = dict.fromkeys(scores, int((active > 0).sum()))
    return Scores(scores=scores, n=counts | {"detection/rows": len(x)})
