"""The gradient of the target with respect to the codes: what most estimators start from."""

from collections.abc import Callable, Iterable

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
    return gradient_and(seen, target, codes, lambda: ())[0]


def gradient_and(
    seen: SeenPrompt,
    target: Target,
    codes: Float[Tensor, "batch pos active"],
    others: Callable[[], Iterable[Tensor]],
) -> tuple[Float[Tensor, "batch pos active"], list[Tensor]]:
    """Return the gradient, and that with respect to other tensors of the same pass.

    `others` is asked for them once the pass is made.
    """
    codes = codes.detach().requires_grad_()
    with torch.enable_grad():
        total = evaluate(seen, target, seen.activation(codes)).sum()
        grad, *rest = torch.autograd.grad(total, (codes, *others()))
    if not all(bool(g.isfinite().all()) for g in (grad, *rest)):
        raise UserError("the gradient of the target is not finite (weights or dtype)")
    return grad, rest


def gradient_cost(seen: SeenPrompt) -> float:
    """Return what one gradient costs from the tokens on, in full forward passes."""
    return 1 + 2 * seen.suffix.fraction
