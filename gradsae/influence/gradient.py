"""The gradient of the target with respect to the codes: what most estimators start from."""

from abc import abstractmethod
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.errors import UserError
from gradsae.influence.entries import positions_of
from gradsae.influence.estimator import Estimator
from gradsae.influence.target import NextToken, Target, evaluate
from gradsae.prompts.seen import SeenPrompt


class GradientEstimator(Estimator):
    """An estimator that reads one gradient at the clean codes and nothing else."""

    is_first_order = True
    reads_probability: bool = False
    """True if the gradient is of the probability of the target's first token, whatever the target's
    own scalar is. Such an estimator is not `is_first_order`: no target is flat for it."""

    @abstractmethod
    def from_gradient(
        self, grad: Float[Tensor, "pos active"], codes: Float[Tensor, "pos active"]
    ) -> Float[Tensor, " active"]:
        """Return one score per latent from d target / d codes and the codes, in SAE units."""

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        if self.reads_probability:
            target = NextToken(token=target.token, scalar="prob", position=target.positions[0])
        return self.from_gradient(gradient(seen, target, seen.codes[None])[0], seen.codes)

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        return gradient_cost(seen)


def gradient(
    seen: SeenPrompt, target: Target, codes: Float[Tensor, "batch pos active"]
) -> Float[Tensor, "batch pos active"]:
    """Compute d target / d codes at each row of `codes`, in units of the target per SAE unit.

    The path leads from the codes through the decoder. The encoder plays no part and the SAE's error
    is held fixed. Costs one forward and one backward of the later blocks per row. Raises UserError
    if a gradient is not finite.
    """
    return gradient_and(seen, target, codes, lambda _: ())[0]


def gradient_and(
    seen: SeenPrompt,
    target: Target,
    codes: Float[Tensor, "batch pos active"],
    other_tensors: Callable[[Float[Tensor, "batch pos d_in"]], Iterable[Tensor]],
) -> tuple[Float[Tensor, "batch pos active"], list[Tensor]]:
    """Compute the gradient, and that with respect to other tensors of the same pass.

    `other_tensors` is called once the pass is made, with the site's activation in it.
    """
    codes = codes.detach().requires_grad_()
    with torch.enable_grad():
        activation = seen.activation(codes)
        total = evaluate(seen, target, activation).sum()
        grad, *slopes = torch.autograd.grad(total, (codes, *other_tensors(activation)))
    if not all(bool(g.isfinite().all()) for g in (grad, *slopes)):
        raise UserError(
            "the gradient of the target is not finite: its numbers grow too large for the model's "
            "dtype; take model.dtype=float32, or another target"
        )
    return grad, slopes


def gradient_cost(seen: SeenPrompt) -> float:
    """Return the cost of one gradient in full forward passes, the run up to the site included."""
    return 1 + 2 * seen.rerun.fraction


def write_norms(seen: SeenPrompt) -> Float[Tensor, " active"]:
    """Return the norm of each latent's total contribution, over positions, in raw units."""
    return (seen.codes * seen.scale).norm(dim=0) * seen.directions.norm(dim=1)


def error_bars(entries: SeenPrompt, slope: Float[Tensor, "pos d_in"]) -> Float[Tensor, " entries"]:
    """Return how far gradient x activation of single entries may be off, in units of the target.

        bar = |d|^2 |g| / |x|,    d: what the entry writes, x: the activation there, g: `slope`

    The second-order term is d' H d / 2. Every block begins with a normalisation, so H has the size
    |g| / |x|. On SmolLM2's block 7 the error has a standard deviation of .11 bars, whatever the
    prompt, the position and the size (results/LOG.md).
    """
    positions = positions_of(entries)
    return (
        write_norms(entries).square()
        * slope.norm(dim=1)[positions]
        / entries.clean.norm(dim=1)[positions]
    )
