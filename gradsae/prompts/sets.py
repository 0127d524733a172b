"""Sets of prompts: cut from held-out documents, or given with their answers.

The default target is the model's most likely next token, as in GradSAE. Every window then gives a
prompt, so the set is a fair sample of the text. With `target: true` the target is the text's own
next token, and only windows where the model ranks it first are kept. Those are the easy windows,
and both choices name the same token there.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.about import LATER
from gradsae.errors import UserError
from gradsae.interfaces import ModelSource
from gradsae.lm.model import LM


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """Tokens, and the next token whose prediction is studied."""

    token_ids: Int[Tensor, " pos"]
    target: int
    """Token id of that next token."""
    text: str
    origin: str
    """Origin for a reader: "window 3", "text 0"."""
    rest: tuple[int, ...] = ()
    """Tokens of the answer after `target`, if the whole answer is studied."""


class Drawn(NamedTuple):
    prompts: list[Prompt]
    n_tried: int
    """Number of candidates that the model was run on, each one full forward pass."""


class PromptSet(ABC):
    """A way to draw prompts. A frozen dataclass."""

    @abstractmethod
    def draw(self, source: ModelSource, seed: int) -> Drawn:
        """Draw the prompts; the same seed gives the same ones."""


@final
@dataclass(frozen=True, kw_only=True)
class CutPrompts(PromptSet):
    """The first tokens of windows of held-out documents."""

    n_prompts: int = 20
    length: int = 32
    """Number of tokens in a prompt."""
    target: Literal["argmax", "true"] = "argmax"
    """The model's most likely next token, or the text's own where the model ranks it first."""
    n_tries: int = 16
    """With `target: true`: largest number of windows tried for each prompt."""
    answer_length: int = field(default=1, metadata=LATER)
    """Tokens of the answer, teacher-forced: greedy after the target, or the text's own. Influence
    then asks about all of them."""

    def __post_init__(self) -> None:
        checks.whole("n_prompts", self.n_prompts, 1)
        checks.whole("length", self.length, 2)
        checks.one_of("target", self.target, ("argmax", "true"))
        checks.whole("n_tries", self.n_tries, 1)
        checks.whole("answer_length", self.answer_length, 1)

    def draw(self, source: ModelSource, seed: int) -> Drawn:
        lm, prompts, n_tried = source.lm(), [], 0
        n_rest = self.answer_length - 1
        with _about("prompts.length"):
            _check_length(lm, self.length + n_rest)
        n_windows = self.n_prompts * (self.n_tries if self.target == "true" else 1)
        for i, window in enumerate(source.eval_windows(n_windows, seed)):
            if len(window) < self.length + self.answer_length:
                raise UserError(
                    f"prompts.length: {self.length} tokens and {self.answer_length} of the answer "
                    f"do not fit the source's windows of {len(window)} (source.context_length)"
                )
            token_ids, true = window[: self.length], int(window[self.length])
            best, n_tried = int(next_logits(lm, token_ids).argmax()), n_tried + 1
            if self.target == "argmax" or best == true:
                prompt = make_prompt(lm, token_ids, best, f"window {i}")
                n_tried += n_rest if self.target == "argmax" else 0
                prompts.append(replace(prompt, rest=self._rest(lm, prompt, window)))
            if len(prompts) == self.n_prompts:
                break
        if not prompts:
            raise UserError(
                f"prompts.target={self.target} takes prompts whose next token {lm.name} predicts, "
                f"and it predicts none of {n_tried} next tokens: set prompts.target=argmax to ask "
                "about its own predictions"
            )
        return Drawn(prompts, n_tried)

    def _rest(self, lm: LM, prompt: Prompt, window: Int[Tensor, " pos"]) -> tuple[int, ...]:
        """Return the answer after its first token: the model's own, or the text's."""
        first, n_rest = self.length, self.answer_length - 1
        if n_rest == 0:
            return ()
        if self.target == "true":
            return tuple(window[first + 1 : first + 1 + n_rest].tolist())
        asked = torch.cat([prompt.token_ids, prompt.token_ids.new_tensor([prompt.target])])
        return tuple(lm.generate(asked[None], n_rest)[0, len(asked) :].tolist())


@final
@dataclass(frozen=True, kw_only=True)
class GivenPrompts(PromptSet):
    """Given texts with the answers that are studied."""

    texts: Sequence[str]
    targets: Sequence[str]
    """Exactly as they follow the text: most tokenizers want the space in front (" Paris")."""
    one_token: bool = field(default=True, metadata=LATER)
    """Refuse longer targets. If false, an answer of several tokens is teacher-forced, and influence
    asks about all of them."""

    def __post_init__(self) -> None:
        if not self.texts or len(self.texts) != len(self.targets):
            raise ValueError(
                f"texts and targets must be as many, at least 1; got {len(self.texts)} and "
                f"{len(self.targets)}"
            )
        checks.flag("one_token", self.one_token)

    def draw(self, source: ModelSource, seed: int) -> Drawn:
        return Drawn(list(self._prompts(source.lm())), 0)

    def _prompts(self, lm: LM) -> Iterator[Prompt]:
        for i, (text, target) in enumerate(zip(self.texts, self.targets, strict=True)):
            with _about(f"prompts.texts[{i}]"):
                token_ids = lm.prompt(text)[0]
            with _about(f"prompts.targets[{i}]"):
                ids = tokens_of(lm, text, target)
                if self.one_token and len(ids) > 1:
                    raise UserError(_too_long(lm, target, token_ids.tolist(), ids))
            with _about(f"prompts.texts[{i}]"):
                _check_length(lm, len(token_ids) + len(ids) - 1)
                prompt = make_prompt(lm, token_ids, ids[0], f"text {i}")
            yield replace(prompt, rest=tuple(ids[1:]))


@contextmanager
def _about(field: str) -> Iterator[None]:
    """Prefix a UserError with the name of the field."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def make_prompt(lm: LM, token_ids: Int[Tensor, " pos"], target: int, origin: str) -> Prompt:
    """Return a checked prompt; UserError if it is empty, too long or the target is no token."""
    _check_length(lm, len(token_ids))
    if not 0 <= target < lm.vocab_size:
        raise UserError(
            f"target {target} is outside the vocabulary of {lm.name} (0 to {lm.vocab_size - 1})"
        )
    text = lm.text(token_ids)
    return Prompt(token_ids=token_ids.to(lm.device), target=target, text=text, origin=origin)


def _too_long(lm: LM, target: str, before: list[int], ids: list[int]) -> str:
    pieces = lm.tokens.pieces([*before, *ids])[len(before) :]
    return (
        f"a target must be one token, {target!r} is {len(ids)} ({', '.join(map(repr, pieces))}); "
        "prompts.one_token=false asks about all tokens of an answer"
    )


def tokens_of(lm: LM, text: str, answer: str) -> list[int]:
    """Return the ids of an answer where it follows a text.

    Raises UserError if it has none, or if the tokenizer joins it to the text.
    """
    ids = lm.tokens.following(text, answer)
    if not ids:
        raise UserError(f"an answer must be at least one token, got {answer!r}")
    return ids


@torch.no_grad()
def next_logits(lm: LM, token_ids: Int[Tensor, " pos"]) -> Float[Tensor, " vocab"]:
    """Return the logits of the token after a prompt: one full forward pass."""
    return lm.logits(token_ids[None].to(lm.device), positions=[-1])[0, -1]


def _check_length(lm: LM, n_tokens: int) -> None:
    if n_tokens == 0:
        raise UserError("empty prompt: it needs at least 1 token")
    if n_tokens > lm.max_context:
        raise UserError(
            f"a prompt of {n_tokens} tokens is longer than the context of {lm.name} "
            f"({lm.max_context})"
        )
