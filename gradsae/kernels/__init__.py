"""Encode and decode with sparse codes, forward and backward, by the fastest exact path.

The backward of a sparse code is exact, not an approximation: every gate has zero gradient through
closed latents. Which path runs is decided here, by storage, density, device and dtype.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.codes import Codes, DenseCodes, SparseCodes
from gradsae.kernels.backend import backend
from gradsae.kernels.gates import Gate


def encode(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    b_pre: Float[Tensor, " d_in"] | None,
    gate: Gate,
) -> Codes:
    """Return the codes of `gate` over W_enc (x - b_pre) + b_enc, with gradient to all but x."""
    with torch.no_grad():
        centred = x if b_pre is None else x - b_pre
        codes = gate.select(torch.addmm(b_enc, centred, W_enc.mT), b_enc)
    if not torch.is_grad_enabled():
        return codes
    empty = x.new_zeros(0)
    values = _Encode.apply(codes, centred, W_enc, b_enc, empty if b_pre is None else b_pre)
    return DenseCodes(values=values) if isinstance(codes, DenseCodes) else codes.with_values(values)


def decode(codes: Codes, W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "batch d_in"]:
    """Return codes @ W_dec, with gradient to the values and to W_dec."""
    if isinstance(codes, DenseCodes):
        return codes.values @ W_dec
    return _Decode.apply(codes, codes.values, W_dec)


class _Encode(torch.autograd.Function):
    """Attach the gradient of an encoder to values that a gate has already chosen."""

    @staticmethod
    def forward(ctx, codes, x, W_enc, b_enc, b_pre):
        ctx.codes = codes
        ctx.has_pre = b_pre.numel() > 0
        ctx.save_for_backward(x, W_enc)
        return codes.values.clone()

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, W_enc = ctx.saved_tensors
        grad = grad * (ctx.codes.values > 0)
        if isinstance(ctx.codes, DenseCodes):
            grad_W, grad_b = grad.mT @ x, grad.sum(0)
        else:
            grad_W = backend(x).scatter_outer(ctx.codes, grad, x)
            grad_b = grad.new_zeros(len(W_enc)).index_add(0, ctx.codes.latents, grad)
        grad_pre = -(grad_b @ W_enc) if ctx.has_pre else None
        return None, None, grad_W, grad_b, grad_pre


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, codes: SparseCodes, values, W_dec):
        ctx.codes = codes
        ctx.save_for_backward(values, W_dec)
        return backend(W_dec).gather_sum(codes, values, W_dec)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        values, W_dec = ctx.saved_tensors
        run, grad = backend(W_dec), grad.contiguous()
        grad_values = run.row_dots(ctx.codes, W_dec, grad) if ctx.needs_input_grad[1] else None
        grad_W = run.scatter_outer(ctx.codes, values, grad) if ctx.needs_input_grad[2] else None
        return None, grad_values, grad_W
