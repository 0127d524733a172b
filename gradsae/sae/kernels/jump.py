"""JumpReLU and the step function, with pseudo-derivatives around the threshold.

Reference: Rajamanoharan et al. 2024, https://arxiv.org/abs/2407.14435, equations 11 and 12, with a
rectangle of width `bandwidth` as kernel. `to_input` also sends the step's pseudo-derivative to the
pre-activation (Anthropic, January 2025 update).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def jump(
    z: Float[Tensor, "*entries"],
    threshold: Float[Tensor, "*entries"],
    bandwidth: float,
    to_input: bool,
) -> Float[Tensor, "*entries"]:
    """Return z where it is above its threshold, else 0; with bandwidth 0 the threshold gets no
    gradient."""
    if bandwidth == 0:
        return z * (z > threshold)
    return _Jump.apply(z, threshold, bandwidth, to_input)


def step(
    z: Float[Tensor, "*entries"],
    threshold: Float[Tensor, "*entries"],
    bandwidth: float,
    to_input: bool,
) -> Float[Tensor, "*entries"]:
    """Return 1 where z is above its threshold, else 0."""
    return _Step.apply(z, threshold, bandwidth, to_input)


def _near(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """Return 1 / bandwidth within half a bandwidth of the threshold, else 0."""
    return ((z - threshold).abs() < bandwidth / 2).to(z) / bandwidth


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, threshold, bandwidth, to_input):
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth, ctx.to_input = bandwidth, to_input
        return z * (z > threshold)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        z, threshold = ctx.saved_tensors
        pseudo = grad * threshold * _near(z, threshold, ctx.bandwidth)
        grad_z = grad * (z > threshold)
        return grad_z + pseudo if ctx.to_input else grad_z, -pseudo, None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, threshold, bandwidth, to_input):
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth, ctx.to_input = bandwidth, to_input
        return (z > threshold).to(z)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        z, threshold = ctx.saved_tensors
        pseudo = grad * _near(z, threshold, ctx.bandwidth)
        return pseudo if ctx.to_input else None, -pseudo, None, None
