"""The gradient of the target with respect to the codes: what most estimators start from."""

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.errors import UserError
from gradsae.influence.target import Target, evaluate
from gradsae.prompt import SeenPrompt


def gradient(
    seen: SeenPrompt, target: Target, codes: Float[Tensor, "batch pos active"]
) -> Float[Tensor, "batch pos active"]:
    """Return d target / d codes at each of `codes`, in units of the target per SAE unit.

    The path leads from the codes through the decoder; the encoder and the error term are held
    fixed. One forward and one backward of the suffix per row.
    """
    codes = codes.detach().requires_grad_()
    with torch.enable_grad():
        total = evaluate(seen, target, seen.activation(codes)).sum()
        (grad,) = torch.autograd.grad(total, codes)
    if not bool(grad.isfinite().all()):
        raise UserError("the gradient of the target is not finite (weights or dtype)")
    return grad


def gradient_cost(seen: SeenPrompt) -> float:
    """Return what one gradient costs from the tokens on, in full forward passes."""
    return 1 + 2 * seen.suffix.fraction
