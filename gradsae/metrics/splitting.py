"""Splitting and duplication: several latents for one feature, several copies of one latent."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from gradsae import checks
from gradsae.about import Score
from gradsae.interfaces import KnownSource, Metric, Scores, Skipped, Source
from gradsae.metrics.common import as_control, chance_control, directions, merge
from gradsae.metrics.matching import BLOCK
from gradsae.metrics.truth import unknown
from gradsae.sae.dictionary import Dictionary


class Near(NamedTuple):
    """Neighbours among two sets of directions, on the CPU."""

    n_above: Int[Tensor, " n_a"]
    """For each row of a: rows of b at a signed cosine above the level."""
    nearest: Int[Tensor, " n_b"]
    """For each row of b: the row of a with the largest absolute cosine."""


def near(
    a: Float[Tensor, "n_a d_in"],
    b: Float[Tensor, "n_b d_in"],
    level: int | float,
    *,
    block: int = BLOCK,
) -> Near:
    """Look at all pairs once, with block x block cosines at a time."""
    a, b = normalize(a, dim=1), normalize(b.to(a), dim=1)
    n_above, nearest = (torch.zeros(len(d), dtype=torch.int64, device=a.device) for d in (a, b))
    best = a.new_full((len(b),), -1.0)
    for i in range(0, len(a), block):
        for j in range(0, len(b), block):
            rows, columns = slice(i, i + block), slice(j, j + block)
            cosine = a[rows] @ b[columns].mT
            n_above[rows] += (cosine > level).sum(1)
            top = cosine.abs_().max(0)
            nearer = top.values > best[columns]
            nearest[columns] = torch.where(nearer, top.indices + i, nearest[columns])
            best[columns] = torch.where(nearer, top.values, best[columns])
    return Near(n_above.cpu(), nearest.cpu())


def score_splitting(
    latents: Float[Tensor, "d_sae d_in"],
    features: Float[Tensor, "n_features d_in"],
    split: int | float,
    duplicate: int | float,
) -> Scores:
    """Return the scores of `Splitting`, without control."""
    d_sae = len(latents)
    names = ("splitting/split", "splitting/duplicate", "splitting/uniqueness")
    covered, nearest = near(features, latents, split)
    copies = near(latents, latents, duplicate).n_above - 1  # without itself
    counts = ((covered > 1).sum(), (copies > 0).sum(), nearest.unique().numel())
    n = dict(zip(names, (len(features), d_sae, d_sae), strict=True))
    scores = {name: int(count) / n[name] for name, count in zip(names, counts, strict=True)}
    n |= {"splitting/split_features": int(counts[0]), "splitting/duplicate_latents": int(counts[1])}
    return Scores(scores=scores, n=n)


@final
@dataclass(frozen=True, kw_only=True)
class Splitting(Metric):
    """How latents share the true features out, by the directions they write.

    No rows are needed, so latents that never fire count. A latent that writes nothing duplicates
    none. `splitting/uniqueness` is `feature_uniqueness` of SAELens (`sae_lens/synthetic/evals.py`);
    random latents score high, too: mind `/chance`, of the same SAE with its directions drawn at
    random (`Dictionary.chance`). n["splitting/split_features"] and n["splitting/duplicate_latents"]
    are the numbers behind the shares.
    """

    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="splitting/split",
            header="split",
            better="lower",
            low=0,
            high=1,
            meaning=(
                "Share of true features with two or more latents at a signed cosine above the "
                "field `split`, 0.7 by default."
            ),
        ),
        Score(
            name="splitting/duplicate",
            header="duplicate",
            better="lower",
            low=0,
            high=1,
            meaning=(
                "Share of latents with another latent at a signed cosine above the field "
                "`duplicate`, 0.9 by default."
            ),
        ),
        Score(
            name="splitting/uniqueness",
            header="uniqueness",
            better="higher",
            low=0,
            high=1,
            meaning=(
                "Distinct features that are the nearest (largest absolute cosine) of some latent, "
                "over the number of latents."
            ),
        ),
    )

    split: int | float = 0.7
    duplicate: int | float = 0.9

    def __post_init__(self) -> None:
        checks.share("split", self.split)
        checks.share("duplicate", self.duplicate)

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        if not isinstance(source, KnownSource):
            return unknown(source)
        features = source.features()
        control = chance_control(sae, seed)
        scores, chance = (
            score_splitting(
                directions(each), features.to(sae.device, sae.dtype), self.split, self.duplicate
            )
            for each in (sae, control)
        )
        return merge([scores, as_control(chance)])
