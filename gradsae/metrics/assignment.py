"""The best one-to-one matching of many rows and columns: exact, without the table of all pairs.

Worth of a pair: the cosine of two directions (`largest_sum`), or whatever a caller computes block
by block (`best_matching`).

A matching with the largest sum uses near pairs only, so it is sought among each row's nearest
columns and then proved best, by prices (linear programming duality; column generation):

1. solve the assignment problem on the candidate pairs (scipy's LAPJVsp);
2. find a price q_j >= 0 of every column, 0 for one left over, such that no candidate (i, j) gains:
   worth_ij - q_j <= p_i, with equality for the matched pairs;
3. look through all pairs, block by block. Where none gains more than TOLERANCE, no matching has a
   sum larger by more than TOLERANCE for each row. Otherwise the pairs that gain become candidates.
"""

from collections.abc import Callable, Iterator
from functools import partial
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
"""Worths held at a time: 64 MB."""
TOLERANCE = 1e-6
"""On a worth. Float32 rounding stays below it, so no candidate is added twice."""
ALONE = -3.0
"""Worth of leaving a row unmatched, below every cosine: only a way out while candidates lack."""


Blocks = Callable[[], Iterator[tuple[int, Tensor]]]
"""Passes over the table: first row, and worths, of some rows with all columns; each time the same.
Worths lie between -1 and 1."""


class Pairs(NamedTuple):
    """Some pairs of rows and columns, with their worths."""

    rows: Int[np.ndarray, " n"]
    columns: Int[np.ndarray, " n"]
    worths: Float[np.ndarray, " n"]


def largest_sum(
    a: Float[Tensor, "n_a d_in"], b: Float[Tensor, "n_b d_in"], *, absolute: bool
) -> Int[np.ndarray, " n_a"]:
    """Return the column of each row in the one-to-one matching with the largest sum of cosines.

    `a` and `b` hold unit rows, `a` no more than `b`; `absolute` ignores the sign of a cosine. The
    sum is the largest to TOLERANCE for each row. Memory: about 300 MB for 16,384 x 65,536, beside
    the directions.
    """
    return best_matching(partial(_blocks, a, b, absolute), len(a), len(b)).columns


class Matched(NamedTuple):
    """A one-to-one matching."""

    columns: Int[np.ndarray, " n_a"]
    """Of each row; n_b or more where the row is left alone."""
    worth: Float[np.ndarray, " n_a"]
    """Of each row with its column; `alone` without one."""


def best_matching(blocks: Blocks, n_a: int, n_b: int, *, alone: float = ALONE) -> Matched:
    """Return the matching of n_a rows with n_b columns that has the largest sum of worths.

    `alone` is the worth of a row without a column. Memory beside a block: N_NEAREST pairs a row.
    """
    pairs = _nearest(blocks, n_b)
    while True:
        match, worth = _solve(pairs, n_a, n_b, alone)
        prices = _prices(pairs, match, worth, n_b)
        added = _gaining(blocks, worth - prices[match], prices[:n_b])
        if not len(added.rows):
            return Matched(match, worth)
        pairs = Pairs(*(np.concatenate(both) for both in zip(pairs, added, strict=True)))


def _blocks(a: Tensor, b: Tensor, absolute: bool) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the cosines of some rows of `a` with all of `b`."""
    n = max(1, ENTRIES // max(len(b), 1))
    for start in range(0, len(a), n):
        cosine = (a[start : start + n] @ b.mT).clamp_(-1, 1)
        yield start, cosine.abs_() if absolute else cosine


def _nearest(blocks: Blocks, n_b: int) -> Pairs:
    """Return the pairs of each row with its nearest columns."""
    k = min(N_NEAREST, n_b)
    top = [worths.topk(k, dim=1, sorted=False) for _, worths in blocks()]
    columns = torch.cat([part.indices.cpu() for part in top])
    worths = torch.cat([part.values.cpu() for part in top]).double()
    return Pairs(
        np.arange(len(columns)).repeat(k), columns.flatten().numpy(), worths.flatten().numpy()
    )


def _solve(
    pairs: Pairs, n_a: int, n_b: int, alone: float
) -> tuple[Int[np.ndarray, " n_a"], Float[np.ndarray, " n_a"]]:
    """Return the column of each row in the best matching on the pairs, and its worth.

    Column n_b + i stands for leaving row i alone.
    """
    every_row = np.arange(n_a)
    rows, columns = np.append(pairs.rows, every_row), np.append(pairs.columns, n_b + every_row)
    costs = 2 - np.append(pairs.worths, np.full(n_a, alone))  # above 0: no entry drops out
    table = csr_matrix((costs, (rows, columns)), shape=(n_a, n_b + n_a))
    matched, match = min_weight_full_bipartite_matching(table)
    match = match[np.argsort(matched)].astype(np.int64)
    return match, 2 - np.asarray(table[every_row, match]).ravel()


def _prices(
    pairs: Pairs, match: Int[np.ndarray, " n_a"], worth: Float[np.ndarray, " n_a"], n_b: int
) -> Float[np.ndarray, " n_a_plus_n_b"]:
    """Return the lowest prices of columns at which no candidate pair gains (Bellman-Ford).

    Whoever would rather have column j than his own must be kept off by its price:
    q_j >= q_match(i) + worth_ij - worth_i. Prices of columns left over are 0 by optimality.
    """
    order = np.argsort(pairs.columns, kind="stable")
    rows, columns = pairs.rows[order], pairs.columns[order]
    gain, now = pairs.worths[order] - worth[rows], match[rows]
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
    blocks: Blocks, profits: Float[np.ndarray, " n_a"], prices: Float[np.ndarray, " n_b"]
) -> Pairs:
    """Return the pairs that gain more than TOLERANCE over a row's profit: the N_ADDED largest."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start, worths in blocks():
        p, q = (torch.from_numpy(part).to(worths) for part in (profits, prices))
        gain = worths - q
        gain -= p[start : start + len(gain), None]
        rows = (gain.amax(1) > TOLERANCE).nonzero().squeeze(1)
        top = gain[rows].topk(min(N_ADDED, len(q)), dim=1)
        i, j = (top.values > TOLERANCE).nonzero(as_tuple=True)
        rows, columns = rows[i], top.indices[i, j]
        parts.append(((rows + start).cpu(), columns.cpu(), worths[rows, columns].double().cpu()))
    return Pairs(*(torch.cat(parts).numpy() for parts in zip(*parts, strict=True)))
