"""What is explained: a scalar of the model's logits. Influence is the change of this number."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.errors import UserError
from gradsae.prompt import SeenPrompt

Scalar = Literal["log_prob", "logit", "prob", "logit_diff"]
SCALARS: tuple[str, ...] = get_args(Scalar)


def logit(logits: Float[Tensor, "batch vocab"], token: int) -> Float[Tensor, " batch"]:
    """Return the token's logit. Unbounded; blind to what the other tokens do."""
    return logits[:, token]


def log_prob(logits: Float[Tensor, "batch vocab"], token: int) -> Float[Tensor, " batch"]:
    """Return the log of the token's probability, in nats; at most 0."""
    return logits.log_softmax(-1)[:, token]


def prob(logits: Float[Tensor, "batch vocab"], token: int) -> Float[Tensor, " batch"]:
    """Return the token's probability. Its gradient p (1 - p) vanishes where the model is sure."""
    return logits.softmax(-1)[:, token]


def logit_diff(
    logits: Float[Tensor, "batch vocab"], token: int, foil: int
) -> Float[Tensor, " batch"]:
    """Return the token's logit minus the foil's. Unbounded; no term for the other tokens."""
    return logits[:, token] - logits[:, foil]


class Target(ABC):
    """A differentiable scalar of the logits at some positions; larger = more of the answer."""

    token: int
    """The token asked about (the first, if the answer has several)."""

    @property
    @abstractmethod
    def positions(self) -> Sequence[int]:
        """Positions whose logits `value` needs; negative ones count from the end."""

    @abstractmethod
    def value(self, logits: Float[Tensor, "batch n_positions vocab"]) -> Float[Tensor, " batch"]:
        """Return the scalar of each row, from the logits at `positions`."""


@final
@dataclass(frozen=True, kw_only=True)
class NextToken(Target):
    """A scalar of one token as the next one after the prompt."""

    token: int
    scalar: Scalar = "log_prob"
    foil: int | None = None
    """The other token of logit_diff: fixed once, so that edits cannot change it."""

    def __post_init__(self) -> None:
        checks.one_of("scalar", self.scalar, SCALARS)
        checks.whole("token", self.token, 0)
        if self.scalar == "logit_diff" and (self.foil is None or self.foil == self.token):
            raise ValueError(f"scalar=logit_diff needs a foil other than the token: {self.foil}")

    @property
    def positions(self) -> Sequence[int]:
        return (-1,)

    def value(self, logits: Float[Tensor, "batch n_positions vocab"]) -> Float[Tensor, " batch"]:
        last = logits[:, -1]
        match self.scalar:
            case "log_prob":
                return log_prob(last, self.token)
            case "logit":
                return logit(last, self.token)
            case "prob":
                return prob(last, self.token)
            case "logit_diff":
                assert self.foil is not None
                return logit_diff(last, self.token, self.foil)


def runner_up(logits: Float[Tensor, " vocab"], token: int) -> int:
    """Return the most likely token other than `token`."""
    first, second = logits.topk(2).indices.tolist()
    return second if first == token else first


def evaluate(
    seen: SeenPrompt,
    target: Target,
    activation: Float[Tensor, "batch pos d_in"],
    *,
    start: int = 0,
) -> Float[Tensor, " batch"]:
    """Run the model on from replaced activations and return the target of each row.

    `start` is a position before which no row differs from the clean pass: see `Tail.logits`.
    """
    value = target.value(seen.suffix.logits(activation, target.positions, start=start))
    if not bool(value.isfinite().all()):
        raise UserError(f"the target is not a finite number: {value.tolist()}")
    return value
