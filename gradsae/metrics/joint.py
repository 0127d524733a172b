"""Codes beside the true coefficients of the same rows.

Everything here works on stored entries; a table of all pairs of features and latents is made some
rows at a time only.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn.functional import normalize

from gradsae.metrics.assignment import ENTRIES
from gradsae.metrics.common import directions, encode
from gradsae.metrics.detection import matched_latents, slice_rows
from gradsae.metrics.truth import Truth, joined
from gradsae.sae.codes import Codes, SparseCodes
from gradsae.sae.dictionary import Dictionary

MAX_ENTRIES = 2**25
"""Most active entries held: 400 MB, and twice that while products are made. Reached only where a
large share of the latents is active: 2,048 on each of 16,384 rows."""

FILLED = 0.25
"""Share of entries from which a factor is multiplied as a full matrix: up to 512 MB of them."""
SPARSE_PAIRS = 2**22
"""Largest table of cosines held whole for a one-to-one matching here; see `one_to_one`."""


class Joint(NamedTuple):
    """Codes of the first rows of a truth, and the truth; both hold active entries only."""

    codes: SparseCodes
    """Values in normalised units, before the output scale."""
    truth: SparseCodes
    scale: Float[Tensor, " batch"]
    """Raw units per normalised unit, of each row."""


def join(sae: Dictionary, truth: Truth, max_entries: int = MAX_ENTRIES) -> Joint:
    """Encode rows of a truth, as many as fit `max_entries` active entries (at least one pass)."""
    parts: list[Codes] = []
    n_entries = 0
    for _, codes in encode(sae, truth.x):
        n_entries += int(codes.n_open().sum())
        if parts and n_entries > max_entries:
            break
        parts.append(joined([codes], sae.d_sae))
    codes = joined(parts, sae.d_sae)
    x = truth.x[: codes.n_rows].to(sae.device, sae.dtype)
    scale = sae.row_scale(x).flatten().detach().float().cpu()
    return Joint(codes, slice_rows(truth.codes, 0, codes.n_rows), scale)


def as_matrix(codes: SparseCodes, values: np.ndarray | None = None) -> csr_matrix:
    """Return codes, or other values in their places, as a scipy matrix [batch, d_sae]."""
    data = codes.values.numpy() if values is None else values
    latents, offsets = codes.latents.int().numpy(), codes.offsets.numpy()
    return csr_matrix((data, latents, offsets), shape=(codes.n_rows, codes.d_sae))


def products(
    left: csr_matrix, right: csr_matrix
) -> Iterator[tuple[int, Float[Tensor, "rows n_right"]]]:
    """Yield the first row, and some rows, of left^T right: ENTRIES numbers at a time."""
    turned, (_, width) = csr_matrix(left.T), right.get_shape()
    n_turned, n_rows = len(turned.indptr) - 1, max(1, ENTRIES // max(width, 1))
    filled: np.ndarray | None = None  # made once, for all blocks that need it
    for start in range(0, n_turned, n_rows):
        block = turned[start : start + n_rows]
        if _is_filled(block):
            product = np.ascontiguousarray((right.T @ block.toarray().T).T)
        elif _is_filled(right):
            filled = right.toarray() if filled is None else filled
            product = block @ filled
        else:
            product = (block @ right).toarray()
        yield start, torch.from_numpy(product)


def _is_filled(matrix: Any) -> bool:
    """Whether a product with the full matrix is the cheaper one."""
    return bool(len(matrix.data) > FILLED * np.prod(matrix.get_shape()))


def best_f1(joint: Joint) -> Float[Tensor, " n_features"]:
    """Return the largest F1 that any one latent reaches as a detector of each feature.

    0 for a feature that is never active on these rows.
    """
    fired, active = joint.codes.fired().float(), joint.truth.fired().float()
    ones = [np.ones(len(c.values), np.float32) for c in (joint.truth, joint.codes)]
    truth, codes = as_matrix(joint.truth, ones[0]), as_matrix(joint.codes, ones[1])
    best = torch.zeros(joint.truth.d_sae)
    for start, hits in products(truth, codes):
        rows = slice(start, start + len(hits))
        total = (fired + active[rows, None]).clamp_min_(1)
        best[rows] = hits.mul_(2).div_(total).amax(1)
    return best


class Partners(NamedTuple):
    """The one-to-one matching by cosine of the features with the latents that fire."""

    latent_of: Int[Tensor, " n_features"]
    """-1 where a feature has none."""
    cosine: Float[Tensor, " n_features"]
    """Signed; 0 without a latent."""


def partners(sae: Dictionary, joint: Joint, features: Float[Tensor, "n_features d_in"]) -> Partners:
    """Match features with latents, as `Detection` does."""
    latent_of = matched_latents(sae, joint.codes.fired(), features, SPARSE_PAIRS)
    nearby = normalize(directions(sae).cpu(), dim=1)[latent_of.clamp_min(0)]
    cosine = (nearby * normalize(features, dim=1)).sum(1)
    return Partners(latent_of, torch.where(latent_of >= 0, cosine, 0.0))


def partner_values(joint: Joint, latent_of: Int[Tensor, " n_features"]) -> Float[Tensor, " nnz"]:
    """Return, for each stored true coefficient, the value of its feature's latent on that row.

    0 where the latent is not active or `latent_of` is -1 (no latent).
    """
    codes, truth, width = joint.codes, joint.truth, joint.codes.d_sae
    held = (codes.rows * width + codes.latents).sort()
    values = torch.zeros(len(truth.latents))
    if len(held.values) == 0:
        return values
    partner = latent_of[truth.latents]
    keys = truth.rows * width + partner
    place = torch.searchsorted(held.values, keys).clamp_max_(len(held.values) - 1)
    present = (held.values[place] == keys) & (partner >= 0)
    values[present] = codes.values[held.indices[place[present]]]
    return values
