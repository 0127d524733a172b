"""Latents as detectors: does each latent fire exactly when the feature nearest to it is active?"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Int
from torch import Tensor

from gradsae import checks
from gradsae.about import Score
from gradsae.interfaces import Metric, Scores, Skipped, Source
from gradsae.metrics.common import as_control, chance_control, directions, merge
from gradsae.metrics.joint import Joint, join
from gradsae.metrics.splitting import near
from gradsae.metrics.truth import Truth, known_rows
from gradsae.sae.dictionary import Dictionary


def latent_hits(joint: Joint, feature_of: Int[Tensor, " d_sae"]) -> Int[Tensor, " d_sae"]:
    """Return the number of rows on which each latent and its feature are both active."""
    codes, truth = joint.codes, joint.truth
    active = (truth.rows * truth.d_sae + truth.latents).sort().values
    if len(active) == 0:
        return torch.zeros(codes.d_sae, dtype=torch.int64)
    keys = codes.rows * truth.d_sae + feature_of[codes.latents]
    place = torch.searchsorted(active, keys).clamp_max_(len(active) - 1)
    return torch.bincount(codes.latents[active[place] == keys], minlength=codes.d_sae)


def score_latents(sae: Dictionary, truth: Truth) -> Scores:
    """Return the scores of `Latents`, without control."""
    joint, latents = join(sae, truth), directions(sae)
    feature_of = near(truth.features.to(latents), latents, 1).nearest
    hits, fired = latent_hits(joint, feature_of), joint.codes.fired()
    active = joint.truth.fired()[feature_of]
    each = {
        "latents/f1": 2 * hits / (fired + active).clamp_min(1),
        "latents/precision": hits / fired.clamp_min(1),
        "latents/recall": hits / active.clamp_min(1),
    }
    scores = {name: values.double().mean().item() for name, values in each.items()}
    n = {**dict.fromkeys(scores, len(fired)), "latents/rows": joint.codes.n_rows}
    return Scores(scores=scores, n=n)


@final
@dataclass(frozen=True, kw_only=True)
class Latents(Metric):
    """Each latent as a detector of the feature nearest to its decoder row, as SAELens has it.

    The definitions of `ClassificationMetrics` (`sae_lens/synthetic/evals.py`): nearest by absolute
    cosine, several latents may share a feature, and the mean is over all latents; one that never
    fires, or whose feature is never active, counts 0. `Detection` and `Coverage` count the features
    that no latent is near. `/chance`: the same SAE with its directions drawn at random
    (`Dictionary.chance`).
    """

    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="latents/f1",
            header="F1 of latents",
            better="higher",
            low=0,
            high=1,
            meaning=(
                "Each latent as a detector of the feature nearest to it: mean F1 over latents, "
                "as in published SynthSAEBench tables. Features that no latent is near cost "
                "nothing."
            ),
        ),
        Score(
            name="latents/precision",
            header="precision of latents",
            better="higher",
            low=0,
            high=1,
            meaning=("Hits over rows on which the latent fires; mean over latents."),
        ),
        Score(
            name="latents/recall",
            header="recall of latents",
            better="higher",
            low=0,
            high=1,
            meaning=(
                "Hits over rows on which the latent's nearest feature is active; mean over latents."
            ),
        ),
    )

    n_rows: int = 16_384

    def __post_init__(self) -> None:
        checks.whole("n_rows", self.n_rows, 1)

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        truth = known_rows(source, self.n_rows, seed)
        if isinstance(truth, Skipped):
            return truth
        control = chance_control(sae, seed)
        scores, chance = (score_latents(each, truth) for each in (sae, control))
        return merge([scores, as_control(chance)])
