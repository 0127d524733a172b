"""The three products from torch built-ins, for any device and dtype.

No `[nnz, d_in]` temporary: the sums are embedding bags, the dots go in chunks.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from gradsae.codes import SparseCodes

CHUNK_ELEMENTS = 1 << 24
"""Largest temporary of `row_dots`, in numbers (64 MiB in fp32)."""


def gather_sum(
    codes: SparseCodes, values: Float[Tensor, " nnz"], W: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "batch d_in"]:
    """See `reference.gather_sum`."""
    return embedding_bag(
        codes.latents,
        W,
        codes.offsets,
        mode="sum",
        per_sample_weights=values,
        include_last_offset=True,
    )


def row_dots(
    codes: SparseCodes, W: Float[Tensor, "d_sae d_in"], g: Float[Tensor, "batch d_in"]
) -> Float[Tensor, " nnz"]:
    """See `reference.row_dots`."""
    size = max(1, CHUNK_ELEMENTS // W.shape[1])
    pairs = zip(codes.rows.split(size), codes.latents.split(size), strict=True)
    return torch.cat([torch.linalg.vecdot(g[rows], W[latents]) for rows, latents in pairs])


def scatter_outer(
    codes: SparseCodes, values: Float[Tensor, " nnz"], x: Float[Tensor, "batch d_in"]
) -> Float[Tensor, "d_sae d_in"]:
    """See `reference.scatter_outer`."""
    by_latent = codes.transpose
    return embedding_bag(
        by_latent.rows,
        x,
        by_latent.offsets,
        mode="sum",
        per_sample_weights=values[by_latent.order],
        include_last_offset=True,
    )
