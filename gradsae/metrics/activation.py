"""Activation-level recovery: do the latents' values follow the true coefficients, row by row?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_matrix
from torch import Tensor

from gradsae import checks
from gradsae.about import Score
from gradsae.interfaces import Metric, Scores, Skipped, Source
from gradsae.metrics.assignment import best_matching
from gradsae.metrics.common import as_control, chance_control, merge
from gradsae.metrics.joint import Joint, as_matrix, join, products
from gradsae.metrics.truth import known_rows
from gradsae.sae.codes import SparseCodes
from gradsae.sae.dictionary import Dictionary


class Standard(NamedTuple):
    """Columns that vary, scaled to unit variance; a column is minus `offset` where it is zero."""

    matrix: csr_matrix
    """[batch, n]: values over sqrt(batch) standard deviations."""
    offset: Float[np.ndarray, " n"]
    """sqrt(batch) means over standard deviations."""


def standardised(codes: SparseCodes) -> Standard:
    """Return the columns whose values are not the same on all rows."""
    n, size = codes.n_rows, codes.d_sae
    values = codes.values.double().numpy()
    latents = codes.latents.numpy()
    mean = np.bincount(latents, values, size) / n
    away = np.bincount(latents, (values - mean[latents]) ** 2, size)
    square = away + (n - np.bincount(latents, minlength=size)) * mean**2  # times the variance
    varies = square > 1e-12 * np.maximum(n * mean**2, 1e-300)
    root = np.sqrt(np.where(varies, square, 1))
    matrix = as_matrix(codes, (values / root[latents]).astype(np.float32))
    return Standard(matrix[:, varies], (mean * n**0.5 / root)[varies])


def correlations(a: Standard, b: Standard) -> Iterator[tuple[int, Float[Tensor, "rows n_b"]]]:
    """Yield the first row, and some rows, of the table of correlations of a's and b's columns."""
    of_a, of_b = (torch.from_numpy(part.offset).float() for part in (a, b))
    for start, sums in products(a.matrix, b.matrix):
        yield start, sums.addr_(of_a[start : start + len(sums)], of_b, alpha=-1).clamp_(-1, 1)


def matched_correlations(joint: Joint) -> tuple[Float[np.ndarray, " pairs"], int, int]:
    """Return the correlations of the best one-to-one matching, and the numbers of features and of
    latents that vary on these rows.

    A pair of negative correlation never improves a matching, so there is none: such features and
    latents have no partner.
    """
    parts = (standardised(joint.truth), standardised(joint.codes))
    n_features, n_latents = (len(part.offset) for part in parts)
    if min(n_features, n_latents) == 0:
        return np.zeros(0), n_features, n_latents
    smaller, larger = sorted(parts, key=lambda part: len(part.offset))
    matching = best_matching(
        lambda: correlations(smaller, larger), len(smaller.offset), len(larger.offset), alone=0.0
    )
    return matching.worth[matching.columns < len(larger.offset)], n_features, n_latents


def score_activations(joint: Joint) -> Scores:
    """Return the scores of `ActivationMCC`, without control."""
    names = ("activation/mcc", "activation/mcc/matched")
    worth, n_features, n_latents = matched_correlations(joint)
    if n_features == 0:
        reason = "no true coefficient varies over the held-out rows"
        return Scores(scores={}, skipped=dict.fromkeys(names, reason))
    scores, n = {names[0]: float(worth.sum()) / n_features}, {names[0]: n_features}
    n["activation/rows"] = joint.codes.n_rows
    if n_latents == 0:
        skipped = {names[1]: "no latent varies over the held-out rows"}
        return Scores(scores=scores, n=n, skipped=skipped)
    n_pairs = min(n_features, n_latents)
    scores[names[1]], n[names[1]] = float(worth.sum()) / n_pairs, n_pairs
    return Scores(scores=scores, n=n)


@final
@dataclass(frozen=True, kw_only=True)
class ActivationMCC(Metric):
    """Mean correlation of latents with true coefficients, over held-out rows and one-to-one.

    Pearson correlation over rows of a latent's value (0 where it is not active) and a feature's
    coefficient (0 where it is not active); the matching has the largest sum of correlations. This
    is how recovered sources are compared with true ones in nonlinear ICA (Hyvarinen and Morioka
    2016, https://arxiv.org/abs/1605.06336); directions play no part. Signed, where they take the
    absolute value: neither a code nor a coefficient goes below zero.

    `/chance`: the same SAE with its directions drawn at random (`Dictionary.chance`). Memory: the
    active entries and 64 MB blocks of the table of correlations (`assignment.py`).
    """

    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="activation/mcc",
            header="activation MCC",
            better="higher",
            low=0,
            high=1,
            meaning=(
                "Correlations of latents with true coefficients in the best one-to-one matching, "
                "summed over the number of features that vary; one without a latent counts 0."
            ),
        ),
        Score(
            name="activation/mcc/matched",
            header="activation MCC of matched",
            better="higher",
            low=0,
            high=1,
            meaning=(
                "The same over the lower of the numbers of features and of latents that vary: "
                "the dictionary's size costs nothing."
            ),
        ),
    )

    n_rows: int = 16_384

    def __post_init__(self) -> None:
        checks.whole("n_rows", self.n_rows, 2)

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        truth = known_rows(source, self.n_rows, seed)
        if isinstance(truth, Skipped):
            return truth
        control = chance_control(sae, seed)
        scores, chance = (score_activations(join(each, truth)) for each in (sae, control))
        return merge([scores, as_control(chance)])
