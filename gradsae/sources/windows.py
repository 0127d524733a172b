"""Token windows of one split of a corpus, spread over its documents."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from gradsae.errors import UserError
from gradsae.lm.model import LM
from gradsae.sources.corpora import Corpus, Split, pack

CHARS_PER_TOKEN = 8
"""More than any language model needs on average: 4.5 for SmolLM2 on English prose."""

Windows = list[np.ndarray]


def draw_windows(
    lm: LM,
    corpus: Corpus,
    split: Split,
    n: int,
    context_length: int,
    generator: torch.Generator,
) -> Int[Tensor, "n pos"]:
    """Return `n` windows of exactly `context_length` tokens, in random order.

    Every document gives the same number of windows, as far as it has them; others make up for
    what is missing. Raises UserError if the split is too short.
    """
    quota = -(-n // len(corpus.documents(split)))
    # First a piece of each document: tokenising 12 MB to keep a tenth would take 10 s.
    for n_chars in (quota * context_length * CHARS_PER_TOKEN, None):
        chosen, spare = _collect(lm, corpus, split, n, context_length, n_chars, generator)
        if len(chosen) + len(spare) >= n:
            break
    else:
        n_found = len(chosen) + len(spare)
        raise UserError(
            f"corpus {corpus.name} has {n_found * context_length} tokens in whole windows of "
            f"{context_length} in its {split} split, but {n * context_length} are asked for: take "
            "fewer, a smaller context_length, or a larger corpus"
        )
    windows = torch.from_numpy(np.stack((chosen + _shuffled(spare, generator))[:n]))
    return windows[torch.randperm(n, generator=generator)]


def _collect(
    lm: LM,
    corpus: Corpus,
    split: Split,
    n: int,
    context_length: int,
    n_chars: int | None,
    generator: torch.Generator,
) -> tuple[Windows, Windows]:
    """Return up to the same number of windows of each document until there are `n`, and spare ones.

    With `n_chars`, no more than a random piece of so many characters is read of each document.
    """
    documents = corpus.documents(split)
    quota = -(-n // len(documents))
    chosen: Windows = []
    spare: Windows = []
    order = torch.randperm(len(documents), generator=generator).tolist()
    for i in tqdm(order, f"tokenise {corpus.name}/{split}", unit="doc", delay=2, disable=None):
        if len(chosen) >= n:
            break
        text = documents[i]["text"]
        if n_chars is not None and len(text) > n_chars:
            start = int(torch.randint(len(text) - n_chars + 1, (), generator=generator))
            text = _piece(lm, text, start, n_chars)
        whole = _shuffled(_whole_windows(lm, text, context_length), generator)
        chosen += whole[:quota]
        spare += whole[quota:]
    return chosen, spare


def _piece(lm: LM, text: str, start: int, n_chars: int) -> str:
    """Return so many characters of a text, or the whole words among them.

    Whole words are needed where the tokenizer gives the beginning of a text other tokens than its
    inside: half a word would then be a word of its own.
    """
    piece = text[start : start + n_chars]
    if not lm.tokens.marks_starts:
        return piece
    first = piece.find(" ") + 1 if start else 0
    return piece[first : max(piece.rfind(" "), first)] or piece


def _whole_windows(lm: LM, text: str, context_length: int) -> Windows:
    packed = pack(
        [text],
        lambda one: lm.tokenize(one, special=False)[0],
        context_length,
        prefix=lm.prefix_ids,
        min_tokens=context_length,
    )
    return [window.tokens for window in packed]


def _shuffled(windows: Windows, generator: torch.Generator) -> Windows:
    return [windows[i] for i in torch.randperm(len(windows), generator=generator).tolist()]
