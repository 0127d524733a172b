"""Gradient x activation with other backward rules: the way in for estimators that need them."""

from jaxtyping import Float
from torch import Tensor

from gradsae.errors import UserError
from gradsae.influence.estimators.gradient import gradient
from gradsae.influence.target import Target
from gradsae.lm.backward_rules import Rules
from gradsae.prompts.seen import OpenTail, SeenPrompt


def open_tail(seen: SeenPrompt) -> OpenTail:
    """Return the model after the site where its inside can be reached; UserError if not."""
    if not isinstance(seen.suffix, OpenTail):
        raise UserError(f"the inside of a {type(seen.suffix).__name__} cannot be reached")
    return seen.suffix


def ruled_scores(seen: SeenPrompt, target: Target, rules: Rules) -> Float[Tensor, " active"]:
    """Return the sum over positions of gradient x activation under these rules."""
    with open_tail(seen).backward(rules):
        grad = gradient(seen, target, seen.codes[None])[0]
    return (grad * seen.codes).sum(0)
