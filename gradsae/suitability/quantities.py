"""The quantities of the theorem, each as a pure function of codes or directions."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import norm
from torch import Tensor
from torch.nn.functional import normalize

from gradsae.sae.codes import SparseCodes
from gradsae.suitability.evidence import to_scipy
from gradsae.suitability.theorem import Estimate

LEVEL = 0.95
MAX_PAIRS = 2**25
"""Pairs of active features on the rows that the co-occurrence looks at; rows beyond are left out. A
quarter of them is held at once: about 200 MB."""
LEAST_COUNT = 30
"""Active rows under which a feature's own mean says too little (relative error above 1/5)."""
LEAST_ROWS = 100
"""Fewer rows cannot estimate a 99th percentile."""
BLOCK = 2048
N_BLOCKS = 8
"""Of rows, in the jackknife."""


class Support(NamedTuple):
    """Active features of a row: quantiles over rows."""

    median: float
    p99: float
    largest: int
    mean: float


def support(codes: SparseCodes) -> Support:
    sizes = codes.n_open().double()
    median, p99 = torch.quantile(sizes, sizes.new_tensor([0.5, 0.99])).tolist()
    return Support(median, p99, int(sizes.max()), sizes.mean().item())


def p99_interval(codes: SparseCodes) -> Estimate:
    """Return the 99th percentile of the active features of a row with its 95 % interval.

    Order statistics: the number of rows below the true quantile is binomial.
    """
    sizes = np.sort(codes.n_open().numpy())
    n, z = len(sizes), norm.ppf((1 + LEVEL) / 2)
    half = z * (n * 0.99 * 0.01) ** 0.5
    low, high = (min(n - 1, max(0, round(n * 0.99 + side * half))) for side in (-1, 1))
    value = np.quantile(sizes, 0.99)
    return Estimate(float(value), float(min(sizes[low], value)), float(max(sizes[high], value)))


def wilson(count: int | float, n: int | float) -> Estimate:
    """Return a share with its Wilson interval; with n = 0 it is anything from 0 to 1."""
    if n == 0:
        return Estimate(0.0, 0.0, 1.0)
    z2 = float(norm.ppf((1 + LEVEL) / 2)) ** 2
    p = count / n
    middle, half = p + z2 / (2 * n), (z2 * (p * (1 - p) / n + z2 / (4 * n * n))) ** 0.5
    low, high = ((middle + side * half) / (1 + z2 / n) for side in (-1, 1))
    return Estimate(p, min(p, max(0.0, low)), max(p, min(1.0, high)))


def rate_ratio(codes: SparseCodes, share: int | float) -> Estimate:
    """Return the ratio of the rates at quantiles `share` and 1 - `share` of the active features.

    Its interval divides the opposite ends of the two Wilson intervals, so it is wide, not narrow.
    """
    fired = codes.fired()
    fired = fired[fired > 0].double()
    if len(fired) == 0:
        return Estimate(1.0, 1.0, float("inf"))
    low, high = (wilson(float(torch.quantile(fired, q)), codes.n_rows) for q in (share, 1 - share))
    # Below 1 only by sampling: a ratio of a higher quantile to a lower one is at least 1.
    return Estimate(high.value / low.value, max(1.0, high.low / low.high), high.high / low.low)


def co_occurrence(codes: SparseCodes) -> Estimate:
    """Return rho_2 = max over i != j of P(j active | i active), with its interval.

    The largest of many noisy ratios is too large. So a quarter of the rows picks the pair (the
    largest lower Wilson bound), and the others measure it: unbiased for that pair, whose ratio is
    at most rho_2.
    """
    matrix = to_scipy(codes)
    matrix.data = np.ones(len(matrix.data), dtype=np.float32)
    pairs = np.cumsum(np.diff(matrix.indptr).astype(np.float64) ** 2)
    n_rows = int(np.searchsorted(pairs, MAX_PAIRS, side="right"))
    first, second = matrix[: n_rows // 4], matrix[n_rows // 4 : n_rows]
    both = (first.T @ first).tocoo()
    fired = both.diagonal()
    is_pair = both.row != both.col
    i, j, count = both.row[is_pair], both.col[is_pair], both.data[is_pair].astype(np.float64)
    if len(i) == 0:
        return wilson(0, float(np.asarray(matrix[:n_rows].sum(0)).max(initial=0)))
    best = int(np.argmax(_wilson_low(count, fired[i])))
    with_i = second[:, i[best]].toarray()[:, 0] > 0
    with_j = second[:, j[best]].toarray()[:, 0] > 0
    return wilson(float((with_i & with_j).sum()), float(with_i.sum()))


def _wilson_low(count: np.ndarray, n: np.ndarray) -> np.ndarray:
    z2, p = norm.ppf((1 + LEVEL) / 2) ** 2, count / n
    half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n)))
    return (p + z2 / (2 * n) - half) / (1 + z2 / n)


def coherence(directions: Float[Tensor, "n_features d_in"]) -> float:
    """Return mu = max over i != j of |cos(v_i, v_j)|; 0 for a single direction."""
    units, largest = normalize(directions, dim=1), 0.0
    for start in range(0, len(units), BLOCK):
        cosine = (units[start : start + BLOCK] @ units.mT).abs()
        cosine.diagonal(start).zero_()
        largest = max(largest, cosine.max().item())
    return min(1.0, largest)


def random_coherence(n: int, d: int) -> float:
    """Return what the largest of n (n - 1) / 2 cosines of random directions tends to."""
    return min(1.0, (4 * float(np.log(max(n, 2))) / d) ** 0.5)


def mean_squares(codes: SparseCodes) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the mean of h_i^2 over the rows on which feature i is active, and their number."""
    open_ = codes.values.clamp_min(0).double().square()
    totals = open_.new_zeros(codes.d_sae).index_add(0, codes.latents, open_)
    fired = codes.fired()
    return totals / fired.clamp_min(1), fired


def size_ratio(codes: SparseCodes) -> Estimate:
    """Return max / min over features of the mean h_i^2, among features with LEAST_COUNT rows.

    Interval: relative standard errors of the two means, at a level that holds for all features at
    once, since the largest and the least of many are picked.
    """
    means, fired = mean_squares(codes)
    fourth, _ = mean_squares(codes.with_values(codes.values.clamp_min(0).square()))
    enough = (fired >= LEAST_COUNT) & (means > 0)
    if not bool(enough.any()):
        return Estimate(1.0, 1.0, float("inf"))
    means, fourth, fired = means[enough], fourth[enough], fired[enough]
    top, bottom = means.argmax(), means.argmin()
    ratio = (means[top] / means[bottom]).item()
    variance = (fourth / means.square() - 1).clamp_min(0) / fired
    z = float(norm.ppf(1 - (1 - LEVEL) / (2 * len(means))))
    factor = float(torch.exp(z * (variance[top] + variance[bottom]).sqrt()))
    return Estimate(ratio, max(1.0, ratio / factor), ratio * factor)


def least_share(codes: SparseCodes, quantile: int | float) -> float:
    """Return h_*: the `quantile` over features of the root mean square of h_i / |h| where active.

    In the balanced case h_i = 1 / sqrt(s) on every row, so 1 / h_*^2 is the effective s.
    """
    squares = codes.values.clamp_min(0).double().square()
    rows = squares.new_zeros(codes.n_rows).index_add(0, codes.rows, squares)
    shares = (squares / rows[codes.rows].clamp_min(1e-300)).sqrt()
    means, fired = mean_squares(codes.with_values(shares))
    if not bool((fired > 0).any()):
        return 1.0
    return torch.quantile(means[fired > 0], quantile).sqrt().item()


class Raw(NamedTuple):
    """What the activations themselves say, without any feature."""

    d_in: int
    n_rows: int
    effective_d: Estimate
    """Participation ratio of the spectrum of the centred activations."""
    norm_ratio: Estimate
    """95th over 5th percentile of the norms of rows."""
    mean_share: float
    """|mean|^2 over the mean of |x|^2."""


def raw(x: Float[Tensor, "batch d_in"]) -> Raw:
    x = x.float()
    norms = x.norm(dim=1).double()
    centre = x.mean(0).double()
    return Raw(
        d_in=x.shape[1],
        n_rows=len(x),
        effective_d=effective_dimension(x),
        norm_ratio=_norm_ratio(norms),
        mean_share=(centre.square().sum() / norms.square().mean().clamp_min(1e-300)).item(),
    )


def effective_dimension(x: Float[Tensor, "batch d_in"]) -> Estimate:
    """Return (sum of eigenvalues)^2 / (sum of their squares) of the covariance of `x`.

    tr(S^2) of a sample exceeds the true one by about tr(S)^2 / rows, which is taken off.
    Interval: jackknife over blocks of rows.
    """
    centred = x - x.mean(0)
    blocks = centred.tensor_split(N_BLOCKS)
    moments = torch.stack([block.mT @ block for block in blocks]).double()
    sizes = torch.tensor([len(block) for block in blocks], dtype=torch.float64)
    total = moments.sum(0)
    value = _participation(total, float(sizes.sum()))
    left_out = torch.tensor(
        [
            _participation(total - m, float(sizes.sum() - size))
            for m, size in zip(moments, sizes, strict=True)
        ],
        dtype=torch.float64,
    )
    spread = (left_out - left_out.mean()).square().sum() * (N_BLOCKS - 1) / N_BLOCKS
    half = float(norm.ppf((1 + LEVEL) / 2) * spread.sqrt())
    return Estimate(value, max(1.0, value - half), value + half)


def _participation(moment: Tensor, n: float) -> float:
    trace, squares = moment.trace() / n, (moment / n).square().sum()
    squares = torch.maximum(squares - trace.square() / n, trace.square() / len(moment))
    return float(trace.square() / squares.clamp_min(1e-300))


def _norm_ratio(norms: Float[Tensor, " batch"]) -> Estimate:
    """Return an interval of the ratio: opposite ends of the two quantiles' intervals, divided."""
    ordered, n = norms.sort().values, len(norms)
    half = float(norm.ppf((1 + LEVEL) / 2)) * (n * 0.05 * 0.95) ** 0.5

    def at(share: float, side: int) -> float:
        return ordered[min(n - 1, max(0, round(n * share + side * half)))].item() or 1e-300

    low, high = (torch.quantile(ordered, q).item() for q in (0.05, 0.95))
    value = high / (low or 1e-300)
    return Estimate(value, max(1.0, at(0.95, -1) / at(0.05, 1)), at(0.95, 1) / at(0.05, -1))
