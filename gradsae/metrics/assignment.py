"""The best one-to-one matching of two large dictionaries: exact, without the table of all cosines.

A matching with the largest sum uses near pairs only, so it is sought among each row's nearest
columns and then proved best, by prices (linear programming duality; column generation):

1. solve the assignment problem on the candidate pairs (scipy's LAPJVsp);
2. find a price q_j >= 0 of every column, 0 for one left over, such that no candidate (i, j) gains:
   cosine_ij - q_j <= p_i, with equality for the matched pairs;
3. look through all pairs, block by block. Where none gains more than TOLERANCE, no matching has a
   sum larger by more than TOLERANCE for each row. Otherwise the pairs that gain become candidates.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

N_NEAREST = 32
"""Candidates of each row to begin with."""
N_ADDED = 8
"""Most candidates that a row gains in a round."""
ENTRIES = 2**24
"""Cosines held at a time: 64 MB."""
TOLERANCE = 1e-6
"""On a cosine. Float32 rounding stays below it, so a candidate is never found twice."""
ALONE = -3.0
"""Worth of leaving a row unmatched, below every cosine: only a way out while candidates lack."""


class Pairs(NamedTuple):
    """Some pairs of rows and columns, with their cosines."""

    rows: Int[np.ndarray, " n"]
    columns: Int[np.ndarray, " n"]
    cosines: Float[np.ndarray, " n"]


def largest_sum(
    a: Float[Tensor, "n_a d_in"], b: Float[Tensor, "n_b d_in"], *, absolute: bool
) -> Int[np.ndarray, " n_a"]:
    """Return the column of each row in the one-to-one matching with the largest sum of cosines.

    `a` and `b` hold unit rows, `a` no more than `b`; `absolute` ignores the sign of a cosine. The
    sum is the largest to TOLERANCE for each row. Memory: about 300 MB for 16,384 x 65,536, beside
    the directions.
    """
    pairs = _nearest(a, b, absolute)
    while True:
        match, worth = _solve(pairs, len(a), len(b))
        prices = _prices(pairs, match, worth, len(b))
        found = _gaining(a, b, absolute, worth - prices[match], prices[: len(b)])
        if not len(found.rows):
            return match
        pairs = Pairs(*(np.concatenate(both) for both in zip(pairs, found, strict=True)))


def _blocks(a: Tensor, b: Tensor, absolute: bool) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the cosines of some rows of `a` with all of `b`."""
    n = max(1, ENTRIES // max(len(b), 1))
    for start in range(0, len(a), n):
        cosine = (a[start : start + n] @ b.mT).clamp_(-1, 1)
        yield start, cosine.abs_() if absolute else cosine


def _nearest(a: Tensor, b: Tensor, absolute: bool) -> Pairs:
    """Return the pairs of each row with its nearest columns."""
    k = min(N_NEAREST, len(b))
    top = [cosine.topk(k, dim=1, sorted=False) for _, cosine in _blocks(a, b, absolute)]
    columns = torch.cat([part.indices.cpu() for part in top]).flatten()
    cosines = torch.cat([part.values.cpu() for part in top]).flatten().double()
    return Pairs(np.arange(len(a)).repeat(k), columns.numpy(), cosines.numpy())


def _solve(
    pairs: Pairs, n_a: int, n_b: int
) -> tuple[Int[np.ndarray, " n_a"], Float[np.ndarray, " n_a"]]:
    """Return the column of each row in the best matching on the pairs, and its cosine.

    Column n_b + i stands for leaving row i alone.
    """
    own = np.arange(n_a)
    rows, columns = np.append(pairs.rows, own), np.append(pairs.columns, n_b + own)
    costs = 2 - np.append(pairs.cosines, np.full(n_a, ALONE))  # above 0: no entry drops out
    table = csr_matrix((costs, (rows, columns)), shape=(n_a, n_b + n_a))
    matched, match = min_weight_full_bipartite_matching(table)
    match = match[np.argsort(matched)].astype(np.int64)
    return match, 2 - np.asarray(table[own, match]).ravel()


def _prices(
    pairs: Pairs, match: Int[np.ndarray, " n_a"], worth: Float[np.ndarray, " n_a"], n_b: int
) -> Float[np.ndarray, " n_a_plus_n_b"]:
    """Return the lowest prices of columns at which no candidate pair gains (Bellman-Ford).

    Whoever would rather have column j than his own must be kept off by its price:
    q_j >= q_match(i) + cosine_ij - worth_i. Prices of columns left over are 0 by optimality.
    """
    order = np.argsort(pairs.columns, kind="stable")
    rows, columns = pairs.rows[order], pairs.columns[order]
    gain, now = pairs.cosines[order] - worth[rows], match[rows]
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    priced = columns[starts]
    prices = np.zeros(n_b + len(match))
    for _ in range(len(match) + 1):
        raised = np.maximum(prices[priced], np.maximum.reduceat(prices[now] + gain, starts))
        if (raised - prices[priced]).max() < 1e-12:
            break
        prices[priced] = raised
    free = np.ones(len(prices), dtype=bool)
    free[match] = False
    prices[free] = 0  # at most rounding; the proof needs it to be exact
    return prices


def _gaining(
    a: Tensor,
    b: Tensor,
    absolute: bool,
    profits: Float[np.ndarray, " n_a"],
    prices: Float[np.ndarray, " n_b"],
) -> Pairs:
    """Return the pairs that gain more than TOLERANCE over a row's profit: the N_ADDED largest."""
    p, q = (torch.from_numpy(part).to(a) for part in (profits, prices))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start, gain in _blocks(a, b, absolute):
        gain -= q
        gain -= p[start : start + len(gain), None]
        rows = (gain.amax(1) > TOLERANCE).nonzero().squeeze(1)
        top = gain[rows].topk(min(N_ADDED, len(b)), dim=1)
        i, j = (top.values > TOLERANCE).nonzero(as_tuple=True)
        rows, columns = rows[i] + start, top.indices[i, j]
        cosines = (a[rows] * b[columns]).sum(1).clamp(-1, 1).double()
        found.append((rows.cpu(), columns.cpu(), (cosines.abs() if absolute else cosines).cpu()))
    return Pairs(*(torch.cat(parts).numpy() for parts in zip(*found, strict=True)))
