"""Questions from texts: some words of a passage again; which name or number follows them there?

Small models fail at questions in words about a text, but copy well: the format should put the words
where the text could go on ("{context}\\n\\n{question}"), with a space among its ends.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch

from gradsae import checks
from gradsae.interfaces import ModelSource
from gradsae.prompts.questions.question import Candidate, QuestionSet
from gradsae.seeds import make_generator

WORD = re.compile(r"(?<=\s)([A-Z][a-z]+|[0-9][0-9,]*[0-9])(?=[\s.,;:])")
N_WINDOWS = 400


@final
@dataclass(frozen=True, kw_only=True)
class ClozeQuestions(QuestionSet):
    """Passages of held-out windows; asked is the word after a few others, a name or a number that
    the passage holds once."""

    length: int = 64
    """Tokens in a passage."""
    n_words: int = 5
    """Words of the passage in the question."""

    def __post_init__(self) -> None:
        checks.whole("length", self.length, 8)
        checks.whole("n_words", self.n_words, 2)

    def candidates(self, source: ModelSource, seed: int) -> Iterator[Candidate]:
        generator, lm = make_generator(seed, "eval cloze"), source.lm()
        n_special = len(lm.prefix_ids)
        for index, window in enumerate(source.eval_windows(N_WINDOWS, seed)):
            passage = lm.text(window[n_special : self.length])
            passage = " ".join(passage.split()[1:-1])  # the ends may be cut inside a word
            found = list(self._gaps(passage))
            for i in torch.randperm(len(found), generator=generator).tolist():
                before, word = found[i]
                yield Candidate(index, passage, before, (word,))

    def _gaps(self, passage: str) -> Iterator[tuple[str, str]]:
        """Words in front and the word that is asked about; both are there once."""
        for match in WORD.finditer(passage):
            before = " ".join(passage[: match.start()].split()[-self.n_words :])
            once = len(re.findall(rf"\b{re.escape(match[1])}\b", passage)) == 1
            is_start = before.endswith((".", "?", "!"))
            enough = len(before.split()) == self.n_words
            if once and enough and not is_start and passage.count(before) == 1:
                yield before, match[1]
