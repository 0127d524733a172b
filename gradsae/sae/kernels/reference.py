"""The three products that sparse codes need, written plainly: what every fast path must equal.

Entries are in compressed-row form (see `gradsae.sae.codes`): entry e of row i has `values[e]` and
`latents[e]`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _rows(offsets: Int[Tensor, " rows_plus_1"]) -> Int[Tensor, " nnz"]:
    index = torch.arange(len(offsets) - 1, device=offsets.device)
    return index.repeat_interleave(offsets.diff())


def gather_sum(
    values: Float[Tensor, " nnz"],
    latents: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_plus_1"],
    W: Float[Tensor, "d_sae d_in"],
) -> Float[Tensor, "batch d_in"]:
    """out[i] = sum over entries e of row i of values[e] * W[latents[e]] (the decoder)."""
    out = W.new_zeros(len(offsets) - 1, W.shape[1])
    return out.index_add(0, _rows(offsets), values[:, None] * W[latents])


def row_dots(
    latents: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_plus_1"],
    W: Float[Tensor, "d_sae d_in"],
    g: Float[Tensor, "batch d_in"],
) -> Float[Tensor, " nnz"]:
    """out[e] = <g[row of e], W[latents[e]]> (gradient of the values)."""
    return (g[_rows(offsets)] * W[latents]).sum(1)


def scatter_outer(
    values: Float[Tensor, " nnz"],
    latents: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " rows_plus_1"],
    x: Float[Tensor, "batch d_in"],
    d_sae: int,
) -> Float[Tensor, "d_sae d_in"]:
    """out[j] = sum over entries e of latent j of values[e] * x[row of e] (weight gradients)."""
    out = x.new_zeros(d_sae, x.shape[1])
    return out.index_add(0, latents, values[:, None] * x[_rows(offsets)])
