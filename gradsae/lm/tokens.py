"""Texts and tokens as a model's own tokenizer has them, whatever it adds to a text.

Tokenizers differ: special tokens stand at the front, at the end, at both or nowhere, and a word
alone may have other tokens than the word in its place (`▁Paris` and `Paris`). So nothing here is
tokenised in parts. What goes on after a text is what the tokens of the whole text hold after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, final

from gradsae.errors import UserError

PROBES = ("x", "a", "the", "0", ".", "一")
"""Texts to see what is added to a text. The first one that has a token counts."""


class JoinedTokensError(UserError):
    """A tokenizer joins the end of a text and the beginning of what follows in one token."""


class Added(NamedTuple):
    """Special tokens that a tokenizer puts around every text."""

    front: list[int]
    end: list[int]


@final
@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokenizer of one model; only what every tokenizer of transformers has is asked of it."""

    name: str
    """Of the model, for messages."""
    tokenizer: Any
    n_tokens: int
    """Number of tokens that the model knows."""

    @cached_property
    def added(self) -> Added:
        """What the tokenizer puts before and after every text: <bos>, [CLS] and [SEP], nothing."""
        for probe in PROBES:
            (bare,), (whole,) = (self.ids([probe], special=special) for special in (False, True))
            for start in range(len(whole) - len(bare) + 1):
                if bare and whole[start : start + len(bare)] == bare:
                    return Added(whole[:start], whole[start + len(bare) :])
        return Added(self.ids([""], special=True)[0], [])

    @cached_property
    def marks_starts(self) -> bool:
        """True if the beginning of a text has other tokens than the same words inside it.

        So it is where a space is put before a text, or where spaces have no token.
        """
        first, later, both = self.ids(["a", " a", "a a"], special=False)
        return first == later or first + later != both

    def ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Return the token ids of each text, with the tokenizer's special tokens or without.

        Raises UserError for a text that the tokenizer cannot read, and for a token that the model
        does not know.
        """
        try:
            # verbose: no warning about texts longer than the context; the caller cuts windows.
            found = self.tokenizer(list(texts), add_special_tokens=special, verbose=False)
        except Exception as error:  # each tokenizer has its own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            text = max(texts, key=len)[:60]
            raise UserError(
                f"the tokenizer of {self.name} cannot read a text ({reason}): {text!r}"
            ) from error
        highest = max((max(ids, default=0) for ids in found["input_ids"]), default=0)
        if highest >= self.n_tokens:
            raise UserError(
                f"the tokenizer of {self.name} gives token {highest}, but the model has only "
                f"{self.n_tokens}: they do not belong together"
            )
        return [list(ids) for ids in found["input_ids"]]

    def opened(self, text: str) -> list[int]:
        """Return the tokens of a text that goes on: with special tokens at its front alone."""
        (ids,), n_end = self.ids([text], special=True), len(self.added.end)
        return ids[: len(ids) - n_end] if n_end and ids[-n_end:] == self.added.end else ids

    def following(self, text: str, more: str) -> list[int]:
        """Return the tokens of `more` where it follows `text`; none if it has no token.

        Raises JoinedTokensError unless the tokens of `text` stay what they are.
        """
        before, whole = self.opened(text), self.opened(text + more)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        pairs = zip(before, [*whole, *before], strict=False)
        n_same = next(i for i, (ours, theirs) in enumerate(pairs) if ours != theirs)
        joined = self.text(whole[n_same : n_same + 1], after=whole[:n_same])
        raise JoinedTokensError(
            f"the tokenizer of {self.name} joins the end of {text[-20:]!r} and the beginning of "
            f"{more[:20]!r} in one token ({joined!r}): let the text end before it, and what "
            "follows begin with it (a space belongs to the word behind it)"
        )

    def text(self, ids: Sequence[int], *, after: Sequence[int] = ()) -> str:
        """Return the text of tokens, special ones included, as it reads after others."""
        alone = self.tokenizer.decode(list(ids))
        if not len(after):
            return alone
        before = self.tokenizer.decode(list(after))
        whole = self.tokenizer.decode([*after, *ids])
        # Not so where `after` ends inside a letter of several bytes.
        return whole[len(before) :] if whole.startswith(before) else alone

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the text that each token adds to those before it."""
        return [self.text(ids[i : i + 1], after=ids[:i]) for i in range(len(ids))]
