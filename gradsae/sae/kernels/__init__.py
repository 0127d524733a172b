"""Encode and decode with sparse codes, forward and backward, by the fastest exact path.

The backward of a sparse code is exact, not an approximation: every gate has zero gradient through
closed latents. Which path runs is decided here, by storage, density, device and dtype.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.sae.codes import Codes, DenseCodes, SparseCodes
from gradsae.sae.kernels.backend import backend
from gradsae.sae.kernels.gates.gate import Gate, Linear
from gradsae.sae.kernels.precision import Precision, factor


class Encoded(NamedTuple):
    codes: Codes
    pre: Codes
    """Pre-activations of the same entries."""
    early: Sequence[Codes] = ()
    """Codes before each step by which they were refined."""


def encode(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    b_pre: Float[Tensor, " d_in"] | None,
    gate: Gate,
    precision: Precision = "fp32",
    *,
    to_input: bool = False,
) -> Encoded:
    """Return the codes of `gate` over W_enc (x - b_pre) + b_enc, with gradient to all but x, and to
    x if `to_input`."""
    linear = Linear(W_enc, b_enc)
    with torch.no_grad():
        centred = factor(x if b_pre is None else x - b_pre, precision)
        pre = gate.select(centred, linear)
    if torch.is_grad_enabled():
        empty = x.new_zeros(0)
        if to_input:
            centred = factor(x if b_pre is None else x - b_pre.detach(), precision)
        values = _Project.apply(pre, centred, W_enc, b_enc, empty if b_pre is None else b_pre)
        pre = pre.with_values(values)
    return Encoded(gate.activate(pre, linear), pre)


def decode(
    codes: Codes, W_dec: Float[Tensor, "d_sae d_in"], precision: Precision = "fp32"
) -> Float[Tensor, "batch d_in"]:
    """Return codes @ W_dec, with gradient to the values and to W_dec."""
    if isinstance(codes, DenseCodes):
        product = factor(codes.values, precision) @ factor(W_dec, precision)
        return product.to(W_dec.dtype)
    return _Decode.apply(codes, codes.values, W_dec, precision)


def scatter_outer(
    codes: SparseCodes, x: Float[Tensor, "batch d_in"]
) -> Float[Tensor, "d_sae d_in"]:
    """Return codes' @ x: for each latent, the rows of x where it is open, times its values."""
    return backend(x).scatter_outer(codes, codes.values, x)


def unit_rows_(W: Float[Tensor, "rows d_in"]) -> None:
    """Scale each row to norm 1, in place and outside the graph."""
    backend(W).unit_rows_(W.detach())


class _Project(torch.autograd.Function):
    """Attach the gradient of W_enc x + b_enc to pre-activations that a gate has selected."""

    @staticmethod
    def forward(ctx, pre: Codes, x, W_enc, b_enc, b_pre):
        ctx.pre = pre
        ctx.save_for_backward(x, W_enc)
        return pre.values.view_as(pre.values)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, W_enc = ctx.saved_tensors
        _, wants_x, wants_W, wants_b, wants_pre = ctx.needs_input_grad
        if isinstance(ctx.pre, DenseCodes):
            grad_W = (grad.to(x.dtype).mT @ x).to(grad.dtype) if wants_W else None
            grad_b = grad.sum(0)
        else:
            grad_W = backend(x).scatter_outer(ctx.pre, grad, x) if wants_W else None
            grad_b = grad.new_zeros(len(W_enc)).index_add(0, ctx.pre.latents, grad)
        grad_pre = -(grad_b @ W_enc) if wants_pre else None
        grad_x = decode(ctx.pre.with_values(grad), W_enc).to(x.dtype) if wants_x else None
        return None, grad_x, grad_W, grad_b if wants_b else None, grad_pre


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, codes: SparseCodes, values, W_dec, precision: Precision):
        ctx.codes, ctx.precision = codes, precision
        W = factor(W_dec, precision)
        ctx.save_for_backward(values, W)
        return backend(W).gather_sum(codes, values, W)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        values, W = ctx.saved_tensors
        run, grad = backend(W), factor(grad.contiguous(), ctx.precision)
        _, wants_values, wants_W, _ = ctx.needs_input_grad
        if wants_values and wants_W:
            return None, *run.dots_and_outer(ctx.codes, values, W, grad), None
        grad_values = run.row_dots(ctx.codes, W, grad) if wants_values else None
        grad_W = run.scatter_outer(ctx.codes, values, grad) if wants_W else None
        return None, grad_values, grad_W, None
