"""The three products and threshold selection from torch built-ins, for any device and dtype.

No `[nnz, d_in]` temporary: the sums are embedding bags, the dots go in chunks. Factors of different
dtypes are brought to the widest first, `codes.values` included; so is the result.
"""

from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from gradsae.sae.codes import SparseCodes

CHUNK_ELEMENTS = 1 << 24
"""Largest temporary of `row_dots`, in numbers (64 MiB in fp32)."""


def gather_sum(
    codes: SparseCodes, values: Float[Tensor, " nnz"], W: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "batch d_in"]:
    """See `reference.gather_sum`."""
    dtype = widest(values, W)
    return embedding_bag(
        codes.latents,
        W.to(dtype),
        codes.offsets,
        mode="sum",
        per_sample_weights=values.to(dtype),
        include_last_offset=True,
    )


def row_dots(
    codes: SparseCodes, W: Float[Tensor, "d_sae d_in"], g: Float[Tensor, "batch d_in"]
) -> Float[Tensor, " nnz"]:
    """See `reference.row_dots`."""
    size, dtype = max(1, CHUNK_ELEMENTS // W.shape[1]), widest(codes.values, W, g)
    pairs = zip(codes.rows.split(size), codes.latents.split(size), strict=True)
    return torch.cat(
        [torch.linalg.vecdot(g[rows].to(dtype), W[latents].to(dtype)) for rows, latents in pairs]
    )


def scatter_outer(
    codes: SparseCodes, values: Float[Tensor, " nnz"], x: Float[Tensor, "batch d_in"]
) -> Float[Tensor, "d_sae d_in"]:
    """See `reference.scatter_outer`."""
    by_latent, dtype = codes.transpose, widest(values, x)
    return embedding_bag(
        by_latent.rows,
        x.to(dtype),
        by_latent.offsets,
        mode="sum",
        per_sample_weights=values[by_latent.order].to(dtype),
        include_last_offset=True,
    )


def dots_and_outer(
    codes: SparseCodes,
    values: Float[Tensor, " nnz"],
    W: Float[Tensor, "d_sae d_in"],
    g: Float[Tensor, "batch d_in"],
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "d_sae d_in"]]:
    """Return `row_dots(codes, W, g)` and `scatter_outer(codes, values, g)`."""
    return row_dots(codes, W, g), scatter_outer(codes, values, g)


def top_k(
    pre: Float[Tensor, "batch d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Return the k largest entries of each row and their latents, in any order."""
    return pre.topk(k, dim=1, sorted=False)


def unit_rows_(W: Float[Tensor, "d_sae d_in"]) -> None:
    """Scale each row to norm 1, in place."""
    W.div_(W.norm(dim=1, keepdim=True).clamp_min_(1e-12))


def count_open(pre: Float[Tensor, "batch d_sae"]) -> Int[Tensor, " batch"]:
    """Return the number of entries above zero in each row."""
    return (pre > 0).sum(1)


def open_entries(
    pre: Float[Tensor, "batch d_sae"], n_open: Int[Tensor, " batch"], total: int
) -> SparseCodes:
    """Return the entries above zero, row by row; `n_open` is `count_open(pre)`, `total` its sum."""
    flat = (pre > 0).view(-1).nonzero().squeeze(1)
    offsets = torch.zeros(len(pre) + 1, dtype=torch.int64, device=pre.device)
    torch.cumsum(n_open, 0, out=offsets[1:])
    d_sae = pre.shape[1]
    return SparseCodes(
        values=pre.reshape(-1)[flat], latents=flat % d_sae, offsets=offsets, d_sae=d_sae
    )


def widest(*factors: Tensor) -> torch.dtype:
    """Return the dtype that holds all of them."""
    return reduce(torch.promote_types, (t.dtype for t in factors))
