"""Random supports and directions that synthetic sources share.

Only the features that fire are drawn, so a row costs its l0 and not `n_features`. Neither support
is an approximation: both have the distribution of the dense draw they replace.
"""

from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from gradsae import checks
from gradsae.seeds import make_generator

Directions = Literal["unit", "gaussian", "orthogonal"]


@lru_cache(maxsize=8)
def true_directions(
    n_features: int, width: int, law: Directions, seed: int
) -> Float[Tensor, "n_features d_in"]:
    """Return the rows of V that one world seed fixes; callers must not write to them.

    `unit`: uniform on the sphere. `gaussian`: i.i.d. N(0, 1 / width) entries, so norms spread
    around 1. `orthogonal`: random orthonormal bases one after the other, so the first `width`
    features do not interfere.
    """
    generator = make_generator(seed, "world")
    if law == "orthogonal":
        n_bases = -(-n_features // width)
        bases = torch.randn(n_bases, width, width, generator=generator)
        return torch.linalg.qr(bases).Q.reshape(-1, width)[:n_features].contiguous()
    drawn = torch.randn(n_features, width, generator=generator)
    return drawn / width**0.5 if law == "gaussian" else normalize(drawn, dim=1)


def exact_support(
    n_rows: int, n_features: int, size: int, generator: torch.Generator
) -> Int[Tensor, "n_rows size"]:
    """Return `size` different features for each row, every subset being equally likely.

    Floyd's algorithm (Bentley and Floyd 1987, https://doi.org/10.1145/30401.315746), all rows at
    a time. The order within a row is not random.
    """
    chosen = torch.empty(n_rows, size, dtype=torch.int64)
    for j in range(size):
        last = n_features - size + j
        drawn = torch.randint(0, last + 1, (n_rows,), generator=generator)
        taken = (chosen[:, :j] == drawn[:, None]).any(1)
        chosen[:, j] = torch.where(taken, last, drawn)
    return chosen


def bernoulli_support(
    n_rows: int, rates: Float[Tensor, " n_features"], generator: torch.Generator
) -> tuple[Int[Tensor, " nnz"], Int[Tensor, " n_rows_plus_1"]]:
    """Return features and row offsets when feature i fires on each row with rates[i] < 1.

    Points fall on the cell (row, i) as a Poisson process with mean -log(1 - rates[i]); a cell that
    is hit once or more fires. Cells are then independent, with exactly the wanted rates.
    """
    ends = -torch.log1p(-rates.double()).cumsum(0)
    total = ends[-1]
    n_points = torch.poisson(total.expand(n_rows), generator=generator).long()
    rows = torch.arange(n_rows).repeat_interleave(n_points)
    where = total * torch.rand(len(rows), dtype=torch.float64, generator=generator)
    features = torch.searchsorted(ends, where, right=True).clamp_max(len(rates) - 1)
    cells = torch.unique(rows * len(rates) + features)
    return cells % len(rates), row_offsets(torch.bincount(cells // len(rates), minlength=n_rows))


def row_offsets(n_active: Int[Tensor, " n_rows"]) -> Int[Tensor, " n_rows_plus_1"]:
    """Return where each row starts, from the number of entries of each row."""
    return torch.cat([n_active.new_zeros(1), n_active.cumsum(0)])


def check_world(n_features: int, width: int, seed: int) -> None:
    """Raise ValueError unless sizes are whole numbers from 1 and the seed is one from 0."""
    checks.whole("n_features", n_features, 1)
    checks.whole("width", width, 1)
    checks.whole("seed", seed, 0)
