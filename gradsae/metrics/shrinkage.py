"""Shrinkage: how much of a feature's true size does its latent write back?"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gradsae import checks
from gradsae.about import Score
from gradsae.interfaces import Metric, Scores, Skipped, Source
from gradsae.metrics.common import as_control, chance_control, directions, merge, ratio_interval
from gradsae.metrics.joint import join, partner_values, partners
from gradsae.metrics.truth import Truth, known_rows
from gradsae.sae.codes import SparseCodes
from gradsae.sae.dictionary import Dictionary


def written_ratios(
    truth: SparseCodes, written: Float[Tensor, " nnz"], on: Bool[Tensor, " nnz"]
) -> Float[Tensor, " n_features"]:
    """Return, for each feature, the sum of what its latent writes along it over the sum of its true
    coefficients, both over the entries that are `on`; NaN without one."""
    latents, zeros = truth.latents[on], torch.zeros(truth.d_sae, dtype=torch.float64)
    above = zeros.index_add(0, latents, written[on].double())
    return above / zeros.index_add(0, latents, truth.values[on].double())


def score_shrinkage(sae: Dictionary, truth: Truth, cosine: int | float, seed: int) -> Scores:
    """Return the scores of `Shrinkage`, without control."""
    joint = join(sae, truth)
    near = partners(sae, joint, truth.features)
    values = partner_values(joint, near.latent_of)
    length = near.cosine * directions(sae).cpu()[near.latent_of.clamp_min(0)].norm(dim=1)
    written = values * length[joint.truth.latents] * joint.scale[joint.truth.rows]
    ratios = written_ratios(joint.truth, written, values > 0)
    close = (near.latent_of >= 0) & (near.cosine > cosine)
    counted = ratios[close & ~ratios.isnan()]
    name = "shrinkage/ratio"
    if len(counted) == 0:
        reason = f"no latent at a cosine above {cosine:g} fires where its feature is active"
        return Scores(scores={}, skipped={name: reason})
    interval = ratio_interval(counted, torch.ones_like(counted), seed)
    return Scores(
        scores={name: counted.mean().item()},
        intervals={} if interval is None else {name: interval},
        n={name: len(counted)},
    )


@final
@dataclass(frozen=True, kw_only=True)
class Shrinkage(Metric):
    """A latent's output along its feature over the feature's coefficient, where both are active.

    For each feature the sum of z (d . v) over the sum of h, over held-out rows with both active: z
    and d the value and the decoder row of its partner in the one-to-one matching by cosine (as in
    Detection), in raw units, v and h the feature's direction and coefficient. Then the mean over
    the features whose partner has a cosine above `cosine`. An l1 penalty shrinks. Interval: 95 %
    bootstrap over features. `/chance`: the same SAE with its directions drawn at random
    (`Dictionary.chance`), at any cosine, since none of its latents comes near a feature.

    Not the shrinkage of SAELens (`sae_lens/synthetic/evals.py`), the mean over rows of |x_hat| /
    |x|: that one does not tell a shrunk code from a missing feature, and counts the bias.
    """

    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="shrinkage/ratio",
            header="shrinkage",
            better="",
            low=0,
            ceiling=1,
            meaning=(
                "A latent's output along its feature over the feature's coefficient, where both "
                "are active; mean over features. Below 1 the code is shrunk, above 1 the latent "
                "writes for other features too."
            ),
        ),
    )

    n_rows: int = 16_384
    cosine: int | float = 0.7

    def __post_init__(self) -> None:
        checks.whole("n_rows", self.n_rows, 1)
        checks.share("cosine", self.cosine)

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        truth = known_rows(source, self.n_rows, seed)
        if isinstance(truth, Skipped):
            return truth
        control = chance_control(sae, seed)
        scores = score_shrinkage(sae, truth, self.cosine, seed)
        return merge([scores, as_control(score_shrinkage(control, truth, -1, seed))])
