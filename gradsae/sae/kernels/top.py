"""The k largest of a row, and what reaches a level, without a sort or a branch per entry.

A NaN is not lost: a row that holds one may come back with NaN among its values, and its loss is not
finite either way.
"""

import numpy as np

from gradsae.sae.kernels.loops import compiled

HALVINGS = 12
"""Of the range of the maxima; what is left between level and k-th maximum costs a few entries."""
FEW = 512
"""Entries up to which counting is faster than a heap."""
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
def least_of_few(row, n, heap):
    """Return the same for a short row[:n], by counting what reaches each entry not yet ruled out.

    A heap of candidates mispredicts about every second comparison; counts have no branch.
    """
    k = row.dtype.type(len(heap))
    if n > FEW:
        return least_of_largest(row, n, heap)
    low, high = row.dtype.type(-np.inf), row.dtype.type(np.inf)
    for i in range(n):
        value = row[i]
        if value < low or value > high:
            continue
        above, reach = row.dtype.type(0), row.dtype.type(0)
        for j in range(n):
            above += row.dtype.type(1) if row[j] > value else row.dtype.type(0)
            reach += row.dtype.type(1) if row[j] >= value else row.dtype.type(0)
        if above >= k:
            low = value
        elif reach < k:
            high = value
        else:
            return value
    return least_of_largest(row, n, heap)  # NaN


@compiled
def mark(row, n, level, mask):
    """Write which entries of row[:n] are at least `level`."""
    for j in range(n):
        mask[j] = row[j] >= level


@compiled
def positions(mask, words, out):
    """Write where `mask` is 1; return how many there are. Beyond len(out) they are only counted.

    `words` is `mask` seen as uint64: nearly all of them are 0, and passed over eight at once.
    """
    n_found = 0
    for w in range(len(words)):
        if words[w] != 0:
            if n_found + 8 <= len(out):
                for j in range(8 * w, 8 * w + 8):
                    out[n_found] = j  # the next one overwrites it unless it counts
                    n_found += mask[j]
            else:
                for j in range(8 * w, 8 * w + 8):
                    if mask[j] != 0 and n_found < len(out):
                        out[n_found] = j
                    n_found += mask[j]
    return n_found


@compiled
def blank(n):
    """Return a mask for n entries, in whole words, with 0 in what is left over."""
    return np.zeros((n + 7) // 8 * 8, np.uint8)


@compiled
def _highest(row, n, lanes):
    """Write the maxima of len(lanes) groups; entries after the last whole round are left out."""
    width = len(lanes)
    lanes[:] = row[:width]
    rounds = n // width
    for first in range(1, rounds - 3, 4):
        a, b = row[first * width : (first + 1) * width], row[(first + 1) * width :]
        c, d = row[(first + 2) * width :], row[(first + 3) * width :]
        for j in range(width):
            e = a[j] if a[j] > b[j] else b[j]
            f = c[j] if c[j] > d[j] else d[j]
            e = e if e > f else f
            lanes[j] = e if e > lanes[j] else lanes[j]
    for last in range(max(1, rounds - (rounds - 1) % 4), rounds):
        part = row[last * width : (last + 1) * width]
        for j in range(width):
            lanes[j] = part[j] if part[j] > lanes[j] else lanes[j]


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
        _highest(row, n, lanes)
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
    place, some = np.empty(4 * k, np.int64), np.empty(4 * k, pre.dtype)
    heap, lanes = np.empty(k, pre.dtype), np.empty(LANES * k, pre.dtype)
    whole_row, mask = np.arange(n), blank(n)
    words = mask.view(np.uint64)
    for i in range(start, stop):
        mark(pre[i], n, level_below(pre[i], n, k, lanes), mask)
        n_found = positions(mask, words, place)
        if k <= n_found <= len(place):
            for e in range(n_found):
                some[e] = pre[i, place[e]]
            least = least_of_few(some, n_found, heap)
            keep_largest(some, place, n_found, least, values[i], latents[i])
        else:  # NaN, or many ties
            least = least_of_largest(pre[i], n, heap)
            keep_largest(pre[i], whole_row, n, least, values[i], latents[i])
