"""Exact match and F1 of written answers, as SQuAD counts them.

Reference: Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250, section 6. Text is compared
without case, punctuation, articles and extra spaces.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def bare(text: str) -> str:
    """Return a text without case, punctuation, articles and extra spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(written: str, answers: Sequence[str]) -> float:
    """Return 1 if the text is one of the accepted answers, else 0."""
    return float(any(bare(written) == bare(answer) for answer in answers))


def f1(written: str, answers: Sequence[str]) -> float:
    """Return the best answer's harmonic mean of word precision and recall, in [0, 1]."""
    return max(_f1(bare(written).split(), bare(answer).split()) for answer in answers)


def _f1(written: list[str], answer: list[str]) -> float:
    if not written or not answer:
        return float(written == answer)
    common = (Counter(written) & Counter(answer)).total()
    return 2 * common / (len(written) + len(answer))
