"""The k largest of a row, and what reaches a level, without a sort or a branch per entry.

A NaN is not lost: a row that holds one may come back with NaN among its values, and its loss is not
finite either way.
"""

import numpy as np

from gradsae.kernels.loops import compiled

BLOCK = 64
"""Entries compared at once; in a long row most blocks hold nothing that is wanted."""
HALVINGS = 12
"""Of the range of the maxima; what is left between level and k-th maximum costs a few entries."""
LANES = 8
"""Groups of a row, for each of the k, whose maxima give a level: the k-th largest of them is at
most the k-th largest of all, and rarely far below."""


@compiled
def _sift(heap, root):
    """Let the entry at `root` sink to its place in a heap whose least is first."""
    k = len(heap)
    value = heap[root]
    while True:
        child = 2 * root + 1
        if child >= k:
            break
        if child + 1 < k and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[root] = heap[child]
        root = child
    heap[root] = value


@compiled
def least_of_largest(row, n, heap):
    """Return the len(heap)-th largest of row[:n], one entry after the other."""
    k = len(heap)
    heap[:] = row[:k]
    for root in range(k // 2 - 1, -1, -1):
        _sift(heap, root)
    for j in range(k, n):
        if row[j] > heap[0]:
            heap[0] = row[j]
            _sift(heap, 0)
    return heap[0]


@compiled
def collect(row, n, level, out):
    """Write the positions of entries of row[:n] of at least `level`; return how many there are.

    Beyond len(out) they are counted, not written.
    """
    found = 0
    for start in range(0, n, BLOCK):
        block = row[start : min(start + BLOCK, n)]
        n_here = np.float32(0)  # a float of the row's width keeps the loop in vector registers
        for j in range(len(block)):
            n_here += np.float32(1) if block[j] >= level else np.float32(0)
        if n_here > 0:
            for j in range(len(block)):
                if block[j] >= level:
                    if found < len(out):
                        out[found] = start + j
                    found += 1
    return found


@compiled
def level_below(row, n, k, lanes):
    """Return a level at or just below the k-th largest of row[:n].

    `lanes` [LANES * k], of the row's type, is scratch space for the maxima of as many groups: where
    k of them reach a level, k entries do. The level is found by bisection: counting is vectorised,
    and a heap mispredicts most of its branches.
    """
    width = len(lanes)
    if n < 2 * width:
        lanes = row[:n]
        width = n
    else:
        lanes[:] = row[:width]
        for start in range(width, n // width * width, width):
            part = row[start : start + width]
            for j in range(width):
                lanes[j] = part[j] if part[j] > lanes[j] else lanes[j]
    low, high = lanes[0], lanes[0]
    for j in range(width):
        low = lanes[j] if lanes[j] < low else low
        high = lanes[j] if lanes[j] > high else high
    for _ in range(HALVINGS):
        level = low + (high - low) * lanes.dtype.type(0.5)
        n_above = lanes.dtype.type(0)
        for j in range(width):
            n_above += lanes.dtype.type(1) if lanes[j] >= level else lanes.dtype.type(0)
        if n_above >= k:
            low = level
        else:
            high = level
    return low


@compiled
def keep_largest(row, index, n, least, values, latents):
    """Write the len(values) entries of row[:n] from `least`, their smallest, and their index."""
    k = len(values)
    n_equal = k
    for j in range(n):
        n_equal -= row[j] > least
    e = 0
    for j in range(n):
        equal = row[j] == least and n_equal > 0
        if e < k and (row[j] > least or equal):
            n_equal -= equal
            values[e] = row[j]
            latents[e] = index[j]
            e += 1
    values[e:] = np.nan  # nothing is left over unless the row holds NaN
    latents[e:] = 0


@compiled
def largest_of_rows(start, stop, pre, values, latents):
    """Write the values.shape[1] largest entries of each row of `pre`, in storage order."""
    n, k = pre.shape[1], values.shape[1]
    at, some = np.empty(4 * k, np.int64), np.empty(4 * k, pre.dtype)
    heap, lanes = np.empty(k, pre.dtype), np.empty(LANES * k, pre.dtype)
    every = np.arange(n)
    for i in range(start, stop):
        found = collect(pre[i], n, level_below(pre[i], n, k, lanes), at)
        if k <= found <= len(at):
            for e in range(found):
                some[e] = pre[i, at[e]]
            least = least_of_largest(some, found, heap)
            keep_largest(some, at, found, least, values[i], latents[i])
        else:  # NaN, or many ties
            least = least_of_largest(pre[i], n, heap)
            keep_largest(pre[i], every, n, least, values[i], latents[i])
