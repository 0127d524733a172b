"""Compiled loops that draw the features that fire on each row, and nothing else.

Given a row's shared factor f, features are independent: feature i is active with probability
Phi(x_i), where x_i = offset_i + gain_i f. The free features are screened in tiles. Where
Phi(x) > COLD (few places) each feature takes one uniform number. Elsewhere candidates are drawn at
the rate COLD by geometric jumps and kept with probability Phi(x) / COLD: exact, and it costs one
number for each candidate and not for each feature. Children are drawn only where the parent fires.

Each row has its own random numbers, seeded by the draw and the row, so that neither the number of
threads nor the rows beside it change a row.
"""

import math

import numpy as np
from scipy.special import ndtr

from gradsae.sae.kernels.loops import compiled

BLOCK = 16
"""Rows that share a tile of gains while it is in the cache."""
TILE = 256
"""Free features of a tile; a multiple of `LANE` and of nothing else that matters."""
LANE = 64
"""Features that are tested for a hot one at once: fewer are not vectorised."""
COLD_X = np.float32(-2.0)
COLD = float(ndtr(COLD_X))
LOG_MISS = math.log1p(-COLD)
NONE, SOME = np.float32(0), np.float32(1)
SURE = 9.0
"""Phi(9) is 1 in double precision."""

STEPS = 64  # of the table of Phi, per unit
TABLE = ndtr(np.arange(-SURE * STEPS, SURE * STEPS + 2) / STEPS)

ONE = np.uint64(1)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
U11, U17, U21, U27, U28 = (np.uint64(n) for n in (11, 17, 21, 27, 28))
U30, U31, U36, U47, U49, U15 = (np.uint64(n) for n in (30, 31, 36, 47, 49, 15))


@compiled
def mixed(x):
    """Mix bits by splitmix64's output function: Steele et al. 2014,
    https://doi.org/10.1145/2714064.2660195."""
    x = (x ^ (x >> U30)) * MIX_1
    x = (x ^ (x >> U27)) * MIX_2
    return x ^ (x >> U31)


@compiled
def seed_of_row(seed, row):
    """Return the two words of a row's generator."""
    start = mixed(seed + np.uint64(row) * GOLDEN)
    return mixed(start + GOLDEN), mixed(start + GOLDEN + GOLDEN) | ONE


@compiled
def uniform(a, b):
    """Return a number in [0, 1) and the next state.

    xoroshiro128++ (Blackman and Vigna 2021, https://doi.org/10.1145/3460772). The state travels in
    two words: an array would be counted in and out at every call.
    """
    total = a + b
    out = ((total << U17) | (total >> U47)) + a
    b ^= a
    a = ((a << U49) | (a >> U15)) ^ b ^ (b << U21)
    b = (b << U28) | (b >> U36)
    return np.float64(out >> U11) * 1.1102230246251565e-16, a, b  # 2^-53


@compiled
def normal(a, b):
    """Return a standard normal by Marsaglia's polar method, and the next state."""
    while True:
        u, a, b = uniform(a, b)
        v, a, b = uniform(a, b)
        u, v = 2 * u - 1, 2 * v - 1
        square = u * u + v * v
        if 0 < square < 1:
            return u * math.sqrt(-2 * math.log(square) / square), a, b


@compiled
def below(u, x):
    """Return whether u < Phi(x); the table answers all but a few."""
    if x >= SURE:
        return True
    if x <= -SURE:
        return u < 0.5 * math.erfc(-x * math.sqrt(0.5))
    cell = int((x + SURE) * STEPS)
    if u < TABLE[cell]:
        return True
    if u >= TABLE[cell + 1]:
        return False
    return u < 0.5 * math.erfc(-x * math.sqrt(0.5))


@compiled
def gap(a, b):
    """Return how many misses come before the next hit at the rate COLD, and the next state."""
    u, a, b = uniform(a, b)
    return int(math.log(1 - u) / LOG_MISS), a, b


@compiled
def magnitude(mean, spread, a, b):
    """Return a draw of N(mean, spread^2) given that it is above 0, and the next state."""
    while True:
        value, a, b = normal(a, b)
        value = mean + spread * value
        if value > 0:
            return value, a, b


@compiled
def screen_tile(first, last, r, x, skip, a, b, active):
    """Collect the active features of row r among the free ones first .. last.

    x is [BLOCK, TILE / LANE, LANE]. Returns how many are in `active`, the next candidate and the
    next state.
    """
    n = 0
    for i in range(TILE // LANE):
        n_hot = NONE
        for j in range(LANE):
            n_hot += SOME if x[r, i, j] > COLD_X else NONE
        if n_hot > 0:
            for j in range(LANE):
                if x[r, i, j] > COLD_X:
                    u, a, b = uniform(a, b)
                    if below(u, x[r, i, j]):
                        active[n] = first + i * LANE + j
                        n += 1
    while skip < last:
        x_skip = x[r, (skip - first) // LANE, (skip - first) % LANE]
        if x_skip <= COLD_X:
            u, a, b = uniform(a, b)
            if below(COLD * u, x_skip):
                active[n] = skip
                n += 1
        miss, a, b = gap(a, b)
        skip += 1 + miss
    return n, skip, a, b


@compiled
def draw_children(i, n, latents, values, r, factors, trees, laws, a, b):
    """Draw the children of every feature in row i's list, which grows while it is read.

    Returns the length of the list, or -1 when it does not fit, and the next state.
    """
    starts, children, groups, scaled = trees
    gains, offsets, means, spreads, positive = laws
    n_features, rank = gains.shape
    index = -1
    while index < n:
        parent = n_features if index < 0 else latents[i, index]
        share = 1.0 if index < 0 else values[i, index] / means[parent]
        index += 1
        c = starts[parent]
        while c < starts[parent + 1]:
            group, last = groups[c], c
            winner, n_active = -1, 0
            while True:
                child, last = children[c], c
                x = offsets[child]
                fires = x >= SURE
                if not fires:
                    total = np.float32(0)
                    for k in range(rank):
                        total += factors[r, k] * gains[child, k]
                    u, a, b = uniform(a, b)
                    fires = below(u, x + total)
                if fires and positive[child] < 1:
                    u, a, b = uniform(a, b)
                    fires = u < positive[child]
                if fires:
                    n_active += 1
                    u = 0.0
                    if n_active > 1:
                        u, a, b = uniform(a, b)
                    if u * n_active < 1:
                        winner = child
                c += 1
                if group < 0 or c == starts[parent + 1] or groups[c] != group:
                    break
            if winner >= 0:
                if n == latents.shape[1]:
                    return -1, a, b
                size, a, b = magnitude(means[winner], spreads[winner], a, b)
                latents[i, n] = winner
                values[i, n] = size * share if scaled[last] else size
                n += 1
    return n, a, b


@compiled
def start_row(seed, row, factor, state):
    """Draw a row's shared factor (all of `factor` but its last entry, which is constant).

    Writes the row's random state to `state` [2]; returns its first candidate among the free
    features.
    """
    a, b = seed_of_row(seed, row)
    for k in range(len(factor) - 1):
        factor[k], a, b = normal(a, b)
    skip, a, b = gap(a, b)
    state[0], state[1] = a, b
    return skip


@compiled
def draw_rows(start, stop, seed, free, tiles, trees, laws, latents, values, n_open):
    """Draw the rows of blocks start .. stop into `latents`, `values` [rows, capacity].

    `free` [n_free] are the features without a parent; `tiles` [n_tiles, rank + 1, TILE] are
    their gains and offsets, padded with features that never fire. `n_open` gets the entries
    of each row, or -1 where they do not fit.
    """
    gains, _, means, spreads, positive = laws
    rank, n_free, capacity = gains.shape[1], len(free), latents.shape[1]
    states = np.empty((BLOCK, 2), np.uint64)
    factors = np.zeros((BLOCK, rank + 1), np.float32)
    factors[:, rank] = 1
    skips = np.empty(BLOCK, np.int64)
    flat = np.empty((BLOCK, TILE), np.float32)
    x = flat.reshape((BLOCK, TILE // LANE, LANE))
    active = np.empty(TILE, np.int64)
    for block in range(start, stop):
        first_row = block * BLOCK
        n_rows = min(BLOCK, len(n_open) - first_row)
        for r in range(n_rows):
            skips[r] = start_row(seed, first_row + r, factors[r], states[r])
            n_open[first_row + r] = 0
        for tile in range(len(tiles)):
            first, last = tile * TILE, min((tile + 1) * TILE, n_free)
            np.dot(factors, tiles[tile], flat)
            for r in range(n_rows):
                i, a, b = first_row + r, states[r, 0], states[r, 1]
                n_active, skips[r], a, b = screen_tile(first, last, r, x, skips[r], a, b, active)
                n = n_open[i]
                for e in range(n_active):
                    feature, u = free[active[e]], 0.0
                    if positive[feature] < 1:
                        u, a, b = uniform(a, b)
                    if u >= positive[feature] or n < 0:
                        continue
                    if n == capacity:
                        n = -1
                    else:
                        size, a, b = magnitude(means[feature], spreads[feature], a, b)
                        latents[i, n], values[i, n] = feature, size
                        n += 1
                n_open[i], states[r, 0], states[r, 1] = n, a, b
        for r in range(n_rows):
            i = first_row + r
            if n_open[i] >= 0:
                a, b = states[r, 0], states[r, 1]
                n, a, b = draw_children(
                    i, n_open[i], latents, values, r, factors, trees, laws, a, b
                )
                n_open[i] = n


@compiled
def pack(start, stop, offsets, latents, values, flat_latents, flat_values):
    """Copy the entries of each row behind those of the row before it."""
    for i in range(start, stop):
        slot = offsets[i]
        for e in range(offsets[i + 1] - slot):
            flat_latents[slot + e] = latents[i, e]
            flat_values[slot + e] = values[i, e]
