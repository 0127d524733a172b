"""Which direction of one dictionary stands for which of another?

Two answers: the largest cosine (many to one, bounded memory) and the best one-to-one matching.
The sign counts: codes are non-negative, so a latent that points the other way is no match.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from gradsae import checks
from gradsae.interfaces import Metric
from gradsae.metrics.assignment import largest_sum

BLOCK = 4096
"""Cosines are computed BLOCK x BLOCK at a time: 64 MB, whatever the dictionaries' sizes."""
MAX_PAIRS = 2**26
"""Largest table of cosines (n_a * n_b) that is held whole: 1.3 GB with scipy's copies."""


class Best(NamedTuple):
    """Largest cosines both ways, in [-1, 1], on the CPU."""

    a: Float[Tensor, " n_a"]
    """Of each row of a, over the rows of b; -1 if b is empty."""
    b: Float[Tensor, " n_b"]
    """Of each row of b, over the rows of a; -1 if a is empty."""


class Matching(NamedTuple):
    """Pairs of a one-to-one matching, min(n_a, n_b) of them, on the CPU."""

    a: Int[Tensor, " pairs"]
    b: Int[Tensor, " pairs"]
    cosine: Float[Tensor, " pairs"]
    """Of each pair; without its sign where the matching ignored it."""


def max_cosines(
    a: Float[Tensor, "n_a d_in"], b: Float[Tensor, "n_b d_in"], *, block: int = BLOCK
) -> Best:
    """Return the largest signed cosines both ways; a zero row has cosine 0 with everything.

    Never holds more than block x block cosines: 65,536 x 16,384 directions need no more memory
    than the directions themselves and 64 MB.
    """
    a, b = normalize(a, dim=1), normalize(b.to(a), dim=1)
    best_a, best_b = a.new_full((len(a),), -1.0), b.new_full((len(b),), -1.0)
    for i in range(0, len(a), block):
        for j in range(0, len(b), block):
            cosine = (a[i : i + block] @ b[j : j + block].mT).clamp_(-1, 1)
            rows, columns = best_a[i : i + block], best_b[j : j + block]
            torch.maximum(rows, cosine.amax(1), out=rows)
            torch.maximum(columns, cosine.amax(0), out=columns)
    return Best(best_a.cpu(), best_b.cpu())


def one_to_one(
    a: Float[Tensor, "n_a d_in"],
    b: Float[Tensor, "n_b d_in"],
    *,
    absolute: bool = False,
    max_pairs: int = MAX_PAIRS,
) -> Matching:
    """Return the one-to-one matching with the largest sum of cosines; `absolute` ignores the sign.

    Up to `max_pairs` pairs by the Hungarian algorithm on all of them: about 20 bytes each and, on
    one core, 1.5 s for 4,096 x 16,384 directions. Above, on few of them, with a proof that no
    matching is better by 1e-6 a pair (`assignment.py`).
    """
    a, b = normalize(a, dim=1), normalize(b.to(a), dim=1)
    if len(a) * len(b) <= max_pairs:
        cosine = (a @ b.mT).clamp_(-1, 1).cpu()
        cosine = cosine.abs_() if absolute else cosine
        rows, columns = map(torch.from_numpy, linear_sum_assignment(cosine.numpy(), maximize=True))
        return Matching(rows, columns, cosine[rows, columns])
    if len(a) > len(b):
        turned = one_to_one(b, a, absolute=absolute, max_pairs=max_pairs)
        order = turned.b.argsort()
        return Matching(turned.b[order], turned.a[order], turned.cosine[order])
    columns = torch.from_numpy(largest_sum(a, b, absolute=absolute))
    cosine = (a * b[columns.to(b.device)]).sum(1).clamp_(-1, 1).cpu()
    return Matching(torch.arange(len(a)), columns, cosine.abs_() if absolute else cosine)


@dataclass(frozen=True, kw_only=True)
class OnMatched(Metric):
    """A metric of latents that are matched with the true features, on held-out rows."""

    n_rows: int = 16_384
    """Held-out rows: they say which latents fire, and how often."""
    max_pairs: int = MAX_PAIRS
    """Largest n_features * d_sae matched on the table of all cosines; above it the same matching
    is found in bounded memory (`assignment.py`)."""

    def __post_init__(self) -> None:
        checks.whole("n_rows", self.n_rows, 1)
        checks.whole("max_pairs", self.max_pairs, 1)
