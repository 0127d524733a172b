"""The gradient of the target with respect to the codes: what most estimators start from."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.errors import UserError
from gradsae.influence.target import Target, evaluate
from gradsae.prompts.seen import SeenPrompt


def gradient(
    seen: SeenPrompt, target: Target, codes: Float[Tensor, "batch pos active"]
) -> Float[Tensor, "batch pos active"]:
    """Return d target / d codes at each of `codes`, in units of the target per SAE unit.

    The path leads from the codes through the decoder; the encoder and the error term are held
    fixed. One forward and one backward of the suffix per row.
    """
    return gradient_and(seen, target, codes, lambda _: ())[0]


def gradient_and(
    seen: SeenPrompt,
    target: Target,
    codes: Float[Tensor, "batch pos active"],
    others: Callable[[Float[Tensor, "batch pos d_in"]], Iterable[Tensor]],
) -> tuple[Float[Tensor, "batch pos active"], list[Tensor]]:
    """Return the gradient, and that with respect to other tensors of the same pass.

    `others` is asked for them once the pass is made, and given the site's activation in it.
    """
    codes = codes.detach().requires_grad_()
    with torch.enable_grad():
        activation = seen.activation(codes)
        total = evaluate(seen, target, activation).sum()
        grad, *rest = torch.autograd.grad(total, (codes, *others(activation)))
    if not all(bool(g.isfinite().all()) for g in (grad, *rest)):
        raise UserError("the gradient of the target is not finite (weights or dtype)")
    return grad, rest


def gradient_cost(seen: SeenPrompt) -> float:
    """Return what one gradient costs from the tokens on, in full forward passes."""
    return 1 + 2 * seen.suffix.fraction


def written(seen: SeenPrompt) -> Float[Tensor, " active"]:
    """Return the norm of what each latent writes, over all positions, in raw units."""
    return (seen.codes * seen.scale).norm(dim=0) * seen.directions.norm(dim=1)


def doubt(entries: SeenPrompt, slope: Float[Tensor, "pos d_in"]) -> Float[Tensor, " entries"]:
    """Return how far gradient x activation of single entries may be off, in units of the target.

        doubt = |d|^2 |g| / |x|,    d: what the entry writes, x: the activation there, g: `slope`

    The second-order term is d' H d / 2, and every block begins with a normalisation, so that H is
    of the size |g| / |x|. One standard deviation of the error is .11 of it on SmolLM2's block 7,
    whatever the prompt, the position and the size (LOG).
    """
    at = entries.first_open(torch.arange(entries.n_active, device=slope.device))
    return written(entries).square() * slope.norm(dim=1)[at] / entries.clean.norm(dim=1)[at]
