"""Written answers: the model's greedy continuation of an edited question.

The keys and values of the edited question are kept from the run that scored it, and those of the
blocks before the site are clean. So a written token costs one position. Latents are edited on
written tokens, too. The SAE's error is held fixed: the edit is a difference, as in
`gradsae.prompts.seen`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae.interfaces import ModelSource
from gradsae.lm.key_values import KeyValues, read_cache
from gradsae.prompts.questions.question import Format, Question
from gradsae.sae.dictionary import Dictionary

MORE_TOKENS = 2
"""Tokens written beyond the length of the answer, for the text that ends it."""


class Later(NamedTuple):
    """The latents that get another value on written tokens, one row per edit."""

    changed: Bool[Tensor, "rows d_sae"]
    value: Float[Tensor, "rows d_sae"]
    """The value, in the SAE's units; 0 switches off."""

    def of(self, rows: Int[Tensor, " some"]) -> "Later":
        return Later(self.changed[rows], self.value[rows])


class Begun(NamedTuple):
    """Edited questions that the model has read, one row each."""

    logits: Float[Tensor, "rows vocab"]
    """Logits that predict the first token of the answer."""
    activation: Float[Tensor, "rows pos d_in"]
    """The site's edited activation on the tokens of the question."""
    key_values: KeyValues | None
    """Of the blocks after the site; None if the model's cache cannot be reused."""
    later: Later


class Answers(NamedTuple):
    texts: list[str]
    """Written texts, cut where the answer ends."""
    forward_equivalents: float


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Writer:
    """Writes answers to one question, each row under its own edit."""

    source: ModelSource
    sae: Dictionary
    question: Question
    format: Format

    @property
    def n_tokens(self) -> int:
        """Largest number of tokens that are written."""
        return len(self.question.answer_ids) + MORE_TOKENS

    @property
    def position(self) -> int:
        """Position that predicts the first written token, from the end of `Question.token_ids`."""
        return -len(self.question.answer_ids)

    @torch.no_grad()
    def write(self, begun: Begun) -> Answers:
        """Write until every row has ended its answer or has `n_tokens`."""
        written = [[token] for token in begun.logits.argmax(-1).tolist()]
        open_, cache, steps = list(range(len(written))), self._cache(begun), 0
        for _ in range(self.n_tokens - 1):
            still = [i for i, row in enumerate(open_) if not self._has_ended(written[row])]
            if not still:
                break
            if cache is not None and len(still) < len(open_):
                cache.batch_select_indices(torch.tensor(still, device=begun.logits.device))
            open_ = [open_[i] for i in still]
            logits = self._next(begun, open_, [written[row] for row in open_], cache)
            for row, token in zip(open_, logits.argmax(-1).tolist(), strict=True):
                written[row].append(token)
            steps += len(open_)
        texts = [self.format.cut(self._text(tokens)) for tokens in written]
        cost_per_step = 1.0 if cache is None else 1 / len(self.question.asked_ids)
        return Answers(texts, steps * cost_per_step)

    def _next(
        self, begun: Begun, rows: list[int], written: list[list[int]], cache: Any
    ) -> Float[Tensor, "rows vocab"]:
        """Return the logits after the written tokens; with a cache only the last token is run."""
        lm, site, question_ids = self.source.lm(), self.source.site(), self.question.asked_ids
        new, index = (
            question_ids.new_tensor(written).to(lm.device),
            torch.tensor(rows, device=lm.device),
        )
        later = begun.later.of(index)
        if cache is not None:
            new = new[:, -1:]

            def change(activation: Tensor) -> Tensor:
                return changed(self.source, self.sae, activation, new, later)

            return lm.logits(new, edit=(site, change), positions=[-1], cache=cache)[:, -1]

        def change_whole(activation: Tensor) -> Tensor:
            after = activation[:, len(question_ids) :]
            edited = changed(self.source, self.sae, after, new, later)
            return torch.cat([begun.activation[index].to(edited), edited], dim=1)

        tokens = torch.cat([question_ids.to(lm.device).expand(len(new), -1), new], dim=1)
        return lm.logits(tokens, edit=(site, change_whole), positions=[-1])[:, -1]

    def _cache(self, begun: Begun) -> Any:
        if begun.key_values is None or self._before is None:
            return None
        n_asked = len(self.question.asked_ids)
        return begun.key_values.prepend(self._before).cache(n_asked, len(begun.logits))

    @cached_property
    def _before(self) -> KeyValues | None:
        """Keys and values of the clean question in all blocks, by one forward pass."""
        lm = self.source.lm()
        cache, question_ids = lm.decoder.empty_cache(), self.question.asked_ids.to(lm.device)
        if cache is None:
            return None
        with torch.no_grad():
            lm.logits(question_ids[None], positions=[-1], cache=cache)
        return read_cache(cache, 0, lm.n_layers, len(question_ids))

    def _has_ended(self, tokens: list[int]) -> bool:
        text = self._text(tokens)
        return any(end in text for end in self.format.ends)

    def _text(self, tokens: list[int]) -> str:
        return self.source.lm().text(tokens, after=self.question.asked_ids).lstrip()


def changed(
    source: ModelSource,
    sae: Dictionary,
    activation: Float[Tensor, "rows pos d_in"],
    token_ids: Int[Tensor, "rows pos"],
    later: Later,
) -> Float[Tensor, "rows pos d_in"]:
    """Return the site's activation on written tokens with the changed latents at their values."""
    n_rows, n_pos, width = activation.shape
    clean = activation.float()
    out = sae(clean.reshape(-1, width))
    codes = out.codes.to_dense().view(n_rows, n_pos, -1)
    edited = torch.where(later.changed[:, None], later.value[:, None], codes)
    # Position 0 is always dropped, so repeat the first token in front of it.
    ids, acts = (torch.cat([x[:, :1], x], dim=1) for x in (token_ids, activation))
    is_kept = ~source.dropped(ids, acts)[:, 1:]
    written = ((edited - codes).reshape(n_rows * n_pos, -1) * out.scale) @ sae.decoder()
    return clean + written.view(n_rows, n_pos, width) * is_kept[:, :, None]
