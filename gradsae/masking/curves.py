"""Areas of deletion and insertion curves: one number for a whole order of latents.

    faithfulness(S) = (m(only S) - m(none)) / (m(all) - m(none))

with m the answer's log-probability and "none" the question with every active latent off. A deletion
curve shows it while the K largest are off, an insertion curve while only the K largest stay. The
axis is log K, because the first few latents matter most. Reference: Mueller et al. 2025 (MIB),
https://arxiv.org/abs/2504.13151, section 3 (areas over sizes of circuits).
"""

import math
from collections.abc import Sequence
from itertools import pairwise


def faithfulness(value: float, full: float, empty: float) -> float | None:
    """Return 1 if nothing is lost, 0 if all is; None if the latents together have no effect."""
    return None if full == empty else (value - empty) / (full - empty)


def area(sizes: Sequence[int], values: Sequence[float]) -> float | None:
    """Return the mean height of a curve over log K, by trapezoids; None for fewer than two sizes.

    Sizes that occur twice (K above the number of latents) count once.
    """
    points = sorted(dict(zip(sizes, values, strict=True)).items())
    if len(points) < 2:
        return None
    width = math.log(points[-1][0] / points[0][0])
    steps = pairwise(points)
    return sum(math.log(n / k) * (v + w) / 2 for (k, v), (n, w) in steps) / width
