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

from gradsae.kernels.loops import compiled

BLOCK = 16
"""Rows that share a tile of gains while it is in the cache."""
TILE = 256
"""Free features of a tile; a multiple of `LANE` and of nothing else that matters."""
LANE = 64
"""Features that are tested for a hot one at once: fewer are not vectorised."""
COLD_X = np.float32(-2.125)
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
    """splitmix64's output function (Steele et al. 2014, https://doi.org/10.1145/2714064.2660195)."""
    x = (x ^ (x >> U30)) * MIX_1
    x = (x ^ (x >> U27)) * MIX_2
    return x ^ (x >> U31)


@compiled
def seed_row(seed, row, state):
    """Fill the two words of a row's generator."""
    start = mixed(seed + np.uint64(row) * GOLDEN)
    state[0] = mixed(start + GOLDEN)
    state[1] = mixed(start + GOLDEN + GOLDEN) | ONE


@compiled
def uniform(state):
    """Return a number in [0, 1) by xoroshiro128++ (Blackman, Vigna, https://prng.di.unimi.it)."""
    a, b = state[0], state[1]
    total = a + b
    out = ((total << U17) | (total >> U47)) + a
    b ^= a
    state[0] = ((a << U49) | (a >> U15)) ^ b ^ (b << U21)
    state[1] = (b << U28) | (b >> U36)
    return np.float64(out >> U11) * 1.1102230246251565e-16  # 2^-53


@compiled
def normal(state):
    """Return a standard normal by Marsaglia's polar method."""
    while True:
        a = 2 * uniform(state) - 1
        b = 2 * uniform(state) - 1
        square = a * a + b * b
        if 0 < square < 1:
            return a * math.sqrt(-2 * math.log(square) / square)


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
def gap(state):
    """Return how many misses come before the next hit at the rate COLD."""
    return int(math.log(1 - uniform(state)) / LOG_MISS)


@compiled
def magnitude(feature, means, spreads, state):
    """Return a draw of N(mean, spread^2) given that it is above 0."""
    while True:
        drawn = means[feature] + spreads[feature] * normal(state)
        if drawn > 0:
            return drawn


@compiled
def screen_tile(first, last, lanes, skip, state, found):
    """Collect the active features of one row among the free ones first .. last.

    `lanes` is x as [TILE / LANE, LANE]. Returns how many are in `found`, and the next candidate.
    """
    n = 0
    for i in range(len(lanes)):
        lane = lanes[i]
        n_hot = NONE
        for j in range(LANE):
            n_hot += SOME if lane[j] > COLD_X else NONE
        if n_hot > 0:
            for j in range(LANE):
                if lane[j] > COLD_X and below(uniform(state), lane[j]):
                    found[n] = first + i * LANE + j
                    n += 1
    while skip < last:
        x = lanes[(skip - first) // LANE, (skip - first) % LANE]
        if x <= COLD_X and below(COLD * uniform(state), x):
            found[n] = skip
            n += 1
        skip += 1 + gap(state)
    return n, skip


@compiled
def child_fires(child, factor, laws, state):
    """Return whether a child is active with a magnitude above 0, whatever its siblings do."""
    gains, offsets, _, _, positive = laws
    x = offsets[child]
    if x >= SURE and positive[child] == 1:
        return True
    if x < SURE:
        total = np.float32(0)
        for k in range(len(factor)):
            total += factor[k] * gains[child, k]
        x += total
    return below(uniform(state), x) and (positive[child] == 1 or uniform(state) < positive[child])


@compiled
def grow(n, row_latents, row_values, kin, laws, factor, state):
    """Draw the children of every feature in the row's list, which grows while it is read.

    Returns the length of the list, or -1 when it does not fit.
    """
    starts, children, groups, scaled = kin
    _, _, means, spreads, _ = laws
    n_features = len(means)
    at = -1
    while at < n:
        parent = n_features if at < 0 else row_latents[at]
        share = 1.0 if at < 0 else row_values[at] / means[parent]
        at += 1
        c = starts[parent]
        while c < starts[parent + 1]:
            group = groups[c]
            winner, active = -1, 0
            while True:
                child = children[c]
                if child_fires(child, factor, laws, state):
                    active += 1
                    if active == 1 or uniform(state) * active < 1:
                        winner = child
                last = c
                c += 1
                if group < 0 or c == starts[parent + 1] or groups[c] != group:
                    break
            if winner >= 0:
                if n == len(row_latents):
                    return -1
                drawn = magnitude(winner, means, spreads, state)
                row_latents[n] = winner
                row_values[n] = drawn * share if scaled[last] else drawn
                n += 1
    return n


@compiled
def draw_blocks(start, stop, seed, free, tiles, kin, laws, latents, values, n_open):
    """Draw the rows of blocks start .. stop into `latents`, `values` [rows, capacity].

    `free` [n_free] are the features without a parent; `tiles` [n_tiles, rank + 1, TILE] are
    their gains and offsets, padded with features that never fire. `n_open` gets the entries
    of each row, or -1 where they do not fit.
    """
    gains, _, means, spreads, positive = laws
    rank, n_free = gains.shape[1], len(free)
    states = np.empty((BLOCK, 2), np.uint64)
    factors = np.zeros((BLOCK, rank + 1), np.float32)
    factors[:, rank] = 1
    skips = np.empty(BLOCK, np.int64)
    x = np.empty((BLOCK, TILE), np.float32)
    lanes = x.reshape((BLOCK, TILE // LANE, LANE))
    found = np.empty(TILE, np.int64)
    for block in range(start, stop):
        first_row = block * BLOCK
        n_rows = min(BLOCK, len(n_open) - first_row)
        for r in range(n_rows):
            seed_row(seed, first_row + r, states[r])
            for k in range(rank):
                factors[r, k] = normal(states[r])
            skips[r] = gap(states[r])
            n_open[first_row + r] = 0
        for tile in range(len(tiles)):
            first, last = tile * TILE, min((tile + 1) * TILE, n_free)
            np.dot(factors, tiles[tile], x)
            for r in range(n_rows):
                n, skips[r] = screen_tile(first, last, lanes[r], skips[r], states[r], found)
                i = first_row + r
                for e in range(n):
                    feature = free[found[e]]
                    if positive[feature] < 1 and uniform(states[r]) >= positive[feature]:
                        continue
                    if n_open[i] < 0 or n_open[i] == latents.shape[1]:
                        n_open[i] = -1
                        break
                    latents[i, n_open[i]] = feature
                    values[i, n_open[i]] = magnitude(feature, means, spreads, states[r])
                    n_open[i] += 1
        for r in range(n_rows):
            i = first_row + r
            if n_open[i] >= 0:
                n_open[i] = grow(
                    n_open[i], latents[i], values[i], kin, laws, factors[r, :rank], states[r]
                )


@compiled
def pack(start, stop, offsets, latents, values, flat_latents, flat_values):
    """Copy the entries of each row behind those of the row before it."""
    for i in range(start, stop):
        at = offsets[i]
        for e in range(offsets[i + 1] - at):
            flat_latents[at + e] = latents[i, e]
            flat_values[at + e] = values[i, e]
