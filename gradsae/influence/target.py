"""Targets: a scalar of the model's logits. Influence is the change of this scalar."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.errors import UserError
from gradsae.prompts.seen import SeenPrompt

Scalar = Literal["log_prob", "logit", "prob", "logit_diff"]
SCALARS: tuple[str, ...] = get_args(Scalar)
"""Scalars of a token."""
AnyScalar = Literal["log_prob", "logit", "prob", "logit_diff", "kl"]
ANY_SCALAR: tuple[str, ...] = get_args(AnyScalar)
"""Scalars of a token, and `kl`, which is about the whole distribution."""


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
    """The token that is explained (the first, if the answer has several)."""

    @property
    @abstractmethod
    def positions(self) -> tuple[int, ...]:
        """Positions whose logits `value` needs; negative ones count from the end."""

    @property
    def is_flat(self) -> bool:
        """True where the clean pass is an extremum: the gradient is zero there by construction."""
        return False

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
    position: int = -1
    """Where the token is predicted, from the end."""

    def __post_init__(self) -> None:
        checks.one_of("scalar", self.scalar, SCALARS)
        checks.whole("token", self.token, 0)
        if self.scalar == "logit_diff" and (self.foil is None or self.foil == self.token):
            raise ValueError(f"scalar=logit_diff needs a foil other than the token: {self.foil}")

    @property
    def positions(self) -> tuple[int, ...]:
        return (self.position,)

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


@final
@dataclass(frozen=True, kw_only=True)
class Answer(Target):
    """A scalar of an answer of several tokens, teacher-forced: the prompt ends before its last.

    Sums over the tokens (log_prob: the log-probability of the whole answer); `prob` is the product.
    """

    tokens: tuple[int, ...]
    scalar: Scalar = "log_prob"
    foils: tuple[int, ...] = ()
    """One for each token, of logit_diff."""

    def __post_init__(self) -> None:
        checks.one_of("scalar", self.scalar, SCALARS)
        if not self.tokens:
            raise ValueError("tokens must hold the answer's tokens, got none")
        if self.scalar == "logit_diff" and len(self.foils) != len(self.tokens):
            raise ValueError(f"scalar=logit_diff needs a foil for each token, got {self.foils}")

    @property
    def token(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.tokens[0]

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(range(-len(self.tokens), 0))

    def value(self, logits: Float[Tensor, "batch n_positions vocab"]) -> Float[Tensor, " batch"]:
        scalar = "log_prob" if self.scalar == "prob" else self.scalar
        foils = self.foils or (None,) * len(self.tokens)
        total = logits.new_zeros(len(logits))
        for i, (token, foil) in enumerate(zip(self.tokens, foils, strict=True)):
            step = NextToken(token=token, scalar=scalar, foil=foil)
            total = total + step.value(logits[:, i : i + 1])
        return total.exp() if self.scalar == "prob" else total


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class KLToClean(Target):
    """Minus KL(clean || edited) of the next-token distributions, in nats, summed over positions.

    The effect of a latent is then the KL that its removal causes: at least 0, whatever the token.
    At the clean point the gradient is zero, so first-order estimates know nothing (see `is_flat`).
    """

    token: int
    clean: Float[Tensor, "n_positions vocab"]
    """Log-probabilities of the clean pass at the last positions."""

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(range(-len(self.clean), 0))

    @property
    def is_flat(self) -> bool:
        return True

    def value(self, logits: Float[Tensor, "batch n_positions vocab"]) -> Float[Tensor, " batch"]:
        edited = logits.double().log_softmax(-1)  # float32 would lose KLs below 1e-6
        clean = self.clean.double()
        return (clean.exp() * (edited - clean)).sum((1, 2))


def make_target(
    scalar: AnyScalar, tokens: Sequence[int], clean: Float[Tensor, "n_positions vocab"]
) -> Target:
    """Return the target of an answer, from the clean logits that predict its tokens.

    The foil of logit_diff is the most likely other token of the clean pass.
    """
    if scalar == "kl":
        return KLToClean(token=tokens[0], clean=clean.log_softmax(-1))
    foils = [runner_up(row, t) for row, t in zip(clean, tokens, strict=True)]
    if scalar != "logit_diff":
        foils = []
    if len(tokens) > 1:
        return Answer(tokens=tuple(tokens), scalar=scalar, foils=tuple(foils))
    return NextToken(token=tokens[0], scalar=scalar, foil=foils[0] if foils else None)


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
    """Run the model from replaced activations on and return the target of each row.

    `start` is a position before which no row differs from the clean pass: see `Rerun.logits`.
    """
    return evaluate_all(seen, [target], activation, start=start)[0]


def evaluate_all(
    seen: SeenPrompt,
    targets: Sequence[Target],
    activation: Float[Tensor, "batch pos d_in"],
    *,
    start: int = 0,
) -> Float[Tensor, "n_targets batch"]:
    """Return several targets of each row from one rerun.

    `start` is a position before which no row differs from the clean pass: see `Rerun.logits`.
    """
    positions = sorted({p for target in targets for p in target.positions})
    return values_of(targets, seen.rerun.logits(activation, positions, start=start), positions)


def values_of(
    targets: Sequence[Target],
    logits: Float[Tensor, "batch n_positions vocab"],
    positions: Sequence[int],
) -> Float[Tensor, "n_targets batch"]:
    """Return several targets of each row from the logits at all of their positions.

    Raises UserError where one is not finite.
    """
    values = []
    for target in targets:
        places = [positions.index(p) for p in target.positions]
        value = target.value(logits if len(places) == len(positions) else logits[:, places])
        if not bool(value.isfinite().all()):
            raise UserError(f"the target is not a finite number: {value.tolist()}")
        values.append(value.to(logits.dtype) if len(targets) > 1 else value)
    return torch.stack(values)
