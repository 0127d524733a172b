"""Reconstruction: how much of an activation comes back, and through how many latents?"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from gradsae import checks
from gradsae.about import Score
from gradsae.interfaces import Metric, Scores, Skipped, Source
from gradsae.metrics.common import forward, held_out, merge, ratio_interval
from gradsae.sae.dictionary import Dictionary

DENSE_RATE = 0.1
"""A latent that fires on a larger share of rows counts as dense."""
LOWEST = -6.0
"""Left edge of the lowest bin of the density histogram, in log10 of the firing rate."""
BINS_PER_DECADE = 4


class Rebuilt(NamedTuple):
    """Sums and counts of forward passes over some rows, on the CPU, in float64."""

    error: Float[Tensor, " batch"]
    """Squared error of each row, in raw units."""
    cosine: Float[Tensor, " batch"]
    """Cosine of each row with its reconstruction; 0 where either is zero."""
    n_open: Int[Tensor, " batch"]
    """Active latents of each row."""
    fired: Int[Tensor, " d_sae"]
    """Number of rows on which each latent fires."""


def rebuild(sae: Dictionary, x: Float[Tensor, "batch d_in"]) -> Rebuilt:
    """Pass every row through the SAE once."""
    empty = torch.zeros(0, dtype=torch.float64)
    errors, cosines, n_open = [empty], [empty], [empty.long()]
    fired, start = torch.zeros(sae.d_sae, dtype=torch.int64), 0
    for out in forward(sae, x):
        recon = out.recon.double().cpu()
        rows = x[start : start + len(recon)].double()
        start += len(recon)
        errors.append((rows - recon).square().sum(1))
        cosines.append(cosine_similarity(rows, recon, dim=1))
        n_open.append(out.codes.n_open().cpu())
        fired += out.codes.fired().cpu()
    return Rebuilt(torch.cat(errors), torch.cat(cosines), torch.cat(n_open), fired)


def deviations(x: Float[Tensor, "batch d_in"]) -> Float[Tensor, " batch"]:
    """Return the squared distance of each row from the mean; their sum is the variance."""
    x = x.double()
    return (x - x.mean(0)).square().sum(1)


def density(fired: Int[Tensor, " d_sae"], n_rows: int) -> dict[str, list[float] | list[int]]:
    """Return a histogram of log10(firing rate) over the latents that fire: left edges and counts.

    Bins are a quarter of a decade wide, from 1e-6 on (lower rates fall into the lowest); the last
    one ends at rate 1, which it includes. Latents that never fire are in no bin.
    """
    n_bins = round(-LOWEST * BINS_PER_DECADE)
    edges = [LOWEST + i / BINS_PER_DECADE for i in range(n_bins)]
    rates = fired[fired > 0].double() / n_rows
    # 1e-9: a rate on an edge (0.1, 0.01) belongs to the bin that starts there, despite rounding.
    place = ((rates.log10() - LOWEST) * BINS_PER_DECADE + 1e-9).floor().long()
    counts = torch.bincount(place.clamp(0, n_bins - 1), minlength=n_bins).tolist()
    return {"log10_rate": edges, "count": counts}


def score_sparsity(rebuilt: Rebuilt) -> Scores:
    """Return l0, shares of dead and dense latents, and the density histogram."""
    n_rows = len(rebuilt.n_open)
    rate = rebuilt.fired.double() / n_rows
    scores = {
        "sparsity/l0": rebuilt.n_open.double().mean().item(),
        "sparsity/dead": (rate == 0).double().mean().item(),
        "sparsity/dense_share": (rate > DENSE_RATE).double().mean().item(),
    }
    series = {"sparsity/density": density(rebuilt.fired, n_rows)}
    n = dict.fromkeys(scores, n_rows) | {"sparsity/never_fired": int((rate == 0).sum())}
    return Scores(scores=scores, n=n, series=series)


def score_fvu(
    name: str,
    error: Float[Tensor, " batch"],
    deviation: Float[Tensor, " batch"],
    seed: int,
) -> Scores:
    """Return the fraction of variance unexplained as `name`, with its interval over rows."""
    total = deviation.sum().item()
    if not total > 0:
        return Scores(scores={}, skipped={name: "the rows do not vary"})
    interval = ratio_interval(error, deviation, seed)
    return Scores(
        scores={name: error.sum().item() / total},
        intervals={} if interval is None else {name: interval},
        n={name: len(error)},
    )


def score_cosine(rebuilt: Rebuilt, x: Float[Tensor, "batch d_in"]) -> Scores:
    """Return the mean cosine of rows with their reconstructions, over rows that are not zero."""
    name, nonzero = "reconstruction/cosine", x.norm(dim=1) > 0
    if not bool(nonzero.any()):
        return Scores(scores={}, skipped={name: "all rows are zero"})
    mean = rebuilt.cosine[nonzero].mean().item()
    return Scores(scores={name: mean}, n={name: int(nonzero.sum())})


@final
@dataclass(frozen=True, kw_only=True)
class Reconstruction(Metric):
    """Held-out rows through the SAE, in raw units.

    Rows that the source flags as outliers are left out (the SAE never saw their like), except from
    the score that says otherwise. FVU's interval: 95 % bootstrap over up to 512 blocks of
    consecutive rows, the mean held fixed. A latent rarer than 1 / n_rows may count as dead. Series
    `sparsity/density`: see `density`; n["sparsity/never_fired"] counts the latents in no bin.
    """

    SCORES: ClassVar[tuple[Score, ...]] = (
        Score(
            name="reconstruction/fvu",
            header="FVU",
            better="lower",
            low=0,
            meaning=(
                "Fraction of variance unexplained: summed squared error over summed squared "
                "distance from the mean of the same rows. A good value is no sign of recovery."
            ),
        ),
        Score(
            name="reconstruction/fvu/with_outliers",
            header="FVU with outliers",
            better="lower",
            low=0,
            meaning=(
                "The same with the outlier tokens that training and the other scores leave out."
            ),
        ),
        Score(
            name="reconstruction/cosine",
            header="cosine",
            better="higher",
            low=-1,
            high=1,
            meaning=(
                "Mean over rows of the cosine between row and reconstruction; rows of zeros are "
                "left out."
            ),
        ),
        Score(
            name="sparsity/l0",
            header="L0",
            better="",
            low=0,
            meaning=("Mean number of active latents per activation. Compare methods at like L0."),
        ),
        Score(
            name="sparsity/dead",
            header="dead",
            better="lower",
            low=0,
            high=1,
            meaning=("Share of all latents that never fire on held-out activations."),
        ),
        Score(
            name="sparsity/dense_share",
            header="dense",
            better="",
            low=0,
            high=1,
            meaning=("Share of latents that fire on more than 10 % of held-out activations."),
        ),
    )

    n_rows: int = 16_384

    def __post_init__(self) -> None:
        checks.whole("n_rows", self.n_rows, 1)

    def measure(self, sae: Dictionary, source: Source, seed: int) -> Scores | Skipped:
        x, _, outlier = held_out(source, self.n_rows, seed)
        odd = torch.zeros(len(x), dtype=torch.bool) if outlier is None else outlier
        if bool(odd.all()):
            return Skipped("all held-out rows are outliers")
        usual, rebuilt = x[~odd], rebuild(sae, x[~odd])
        parts = [
            score_fvu("reconstruction/fvu", rebuilt.error, deviations(usual), seed),
            score_cosine(rebuilt, usual),
            score_sparsity(rebuilt),
        ]
        name = "reconstruction/fvu/with_outliers"
        if outlier is None:
            parts.append(Scores(scores={}, skipped={name: f"{source.name} flags no outliers"}))
        else:
            error = torch.cat([rebuilt.error, rebuild(sae, x[odd]).error])
            total = deviations(torch.cat([usual, x[odd]]))
            parts.append(score_fvu(name, error, total, seed))
        return merge(parts)
