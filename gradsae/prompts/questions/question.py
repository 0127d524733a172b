"""What a question is: a context, what is asked, the answer, and the form in which a model is asked.

Only questions that the unedited model answers right are kept, as GradSAE has it: what an edit does
to an answer can only be seen where there was one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Int
from torch import Tensor

from gradsae import checks
from gradsae.errors import UserError
from gradsae.interfaces import ModelSource
from gradsae.lm.model import LM
from gradsae.lm.tokens import JoinedTokensError
from gradsae.prompts.sets import tokens_of


class Candidate(NamedTuple):
    """A question in words, not yet put to a model."""

    context_index: int
    """Candidates with the same number share a context."""
    context: str
    question: str
    answers: tuple[str, ...]
    """Accepted answers; the first is teacher-forced."""


class QuestionSet(ABC):
    """A way to draw questions. A frozen dataclass."""

    @abstractmethod
    def candidates(self, source: ModelSource, seed: int) -> Iterator[Candidate]:
        """Yield questions, those of one context one after the other; a seed fixes them."""


@final
@dataclass(frozen=True, kw_only=True)
class Format:
    """The text around a question and its answer."""

    ask: str = "{context}\nQuestion: {question}\nAnswer:"
    mark: str = ""
    """What the answer's own form puts before it, for example " [[" where `ask` wants
    "Result = [[ label ]]". The GradSAE release scores its last token in place of the answer."""
    ends: Sequence[str] = ("\n", ".", ",", ";", "]]", "<|")
    """Texts that end a written answer."""

    def __post_init__(self) -> None:
        for part in ("{context}", "{question}"):
            if part not in self.ask:
                raise ValueError(f"format.ask must hold {part}, got {self.ask!r}")
        if isinstance(self.ends, str) or not self.ends:
            raise ValueError(f"format.ends must be a list of texts, got {self.ends!r}")

    def cut(self, text: str) -> str:
        """Return the answer in what a model wrote: up to the first end, stripped."""
        text = text.lstrip()
        places = [place for end in self.ends if (place := text.find(end)) >= 0]
        return text[: min(places, default=len(text))].strip()


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A question put to one model, with the answer as tokens."""

    asked_ids: Int[Tensor, " pos"]
    """Everything before the answer, the mark included."""
    mark: int | None
    """Token id of the mark, if the format has one."""
    answer_ids: tuple[int, ...]
    candidate: Candidate
    shared: int
    """Number of leading tokens that belong to the context."""
    origin: str

    @property
    def token_ids(self) -> Int[Tensor, " all"]:
        """Return the tokens of a teacher-forced run: question and answer without its last token."""
        answer = self.asked_ids.new_tensor(self.answer_ids[:-1])
        return torch.cat([self.asked_ids, answer])


class DrawnQuestions(NamedTuple):
    questions: list[Question]
    n_tried: int
    """Number of candidates that the model was run on, each one full forward pass."""


@final
@dataclass(frozen=True, kw_only=True)
class Questions:
    """Contexts with several questions each, all of which the model answers right."""

    of: QuestionSet
    format: Format
    n_contexts: int = 10
    per_context: int = 2
    """Number of questions on one context; contexts with fewer right answers are left out."""
    n_tries: int = 20
    """Largest number of candidates tried for each question."""
    max_tokens: int = 256
    """Longer questions are left out before the model is run."""

    def __post_init__(self) -> None:
        for name in ("n_contexts", "per_context", "n_tries", "max_tokens"):
            checks.whole(name, getattr(self, name), 1)

    def draw(self, source: ModelSource, seed: int) -> DrawnQuestions:
        """Return the questions by context; UserError if the model answers none right."""
        lm, n_tried, n_asked, joined = source.lm(), 0, 0, ""
        by_context: dict[int, list[Question]] = {}
        for candidate in self.of.candidates(source, seed):
            right = by_context.setdefault(candidate.context_index, [])
            if len(_full(by_context, self.per_context)) == self.n_contexts:
                break
            if n_asked == self.n_tries * self.n_contexts * self.per_context:
                break
            if len(right) == self.per_context:
                continue
            n_asked += 1
            try:
                question = put(lm, candidate, self.format)
            except JoinedTokensError as error:
                joined = f"; {error}"
                continue
            if len(question.token_ids) > min(self.max_tokens, lm.max_context):
                continue
            n_tried += 1
            if is_answered(lm, question, self.format):
                right.append(question)
        found = _full(by_context, self.per_context)
        if not found:
            raise UserError(
                f"no context has {self.per_context} questions that the model answers right, of "
                f"{n_asked} questions tried ({n_tried} of at most {self.max_tokens} tokens){joined}"
            )
        return DrawnQuestions([question for group in found for question in group], n_tried)


def _full(by_context: dict[int, list[Question]], per_context: int) -> list[list[Question]]:
    return [group for group in by_context.values() if len(group) == per_context]


def put(lm: LM, candidate: Candidate, form: Format) -> Question:
    """Return a question as tokens of a model, with its answer."""
    text = form.ask.format(context=candidate.context, question=candidate.question)
    mark = lm.tokens.following(text, form.mark) if form.mark else []
    asked = text + form.mark
    answer = tokens_of(lm, asked, " " + candidate.answers[0].strip())
    ids = torch.tensor(lm.tokens.opened(asked), device=lm.device)
    before = form.ask.partition("{question}")[0].format(context=candidate.context)
    alone = ids.new_tensor(lm.tokens.opened(before)[: len(ids)])
    n_same = int((alone == ids[: len(alone)]).int().cumprod(0).sum())
    return Question(
        asked_ids=ids,
        mark=mark[-1] if mark else None,
        answer_ids=tuple(answer),
        candidate=candidate,
        shared=n_same,
        origin=f"context {candidate.context_index}",
    )


@torch.no_grad()
def is_answered(lm: LM, question: Question, form: Format) -> bool:
    """Return True if the model writes the answer and ends there. Costs one full forward pass."""
    answer = question.asked_ids.new_tensor(question.answer_ids)
    whole = torch.cat([question.asked_ids, answer])[None]
    positions = list(range(-len(answer) - 1, 0))
    written = lm.logits(whole, positions=positions)[0].argmax(-1)
    if not torch.equal(written[:-1], answer):
        return False
    asked = question.asked_ids
    return form.cut(lm.text(written, after=asked)) == lm.text(answer, after=asked).strip()
