"""Token windows of one split of a corpus, spread over its documents."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from gradsae.corpora import Corpus, Split, pack
from gradsae.errors import UserError
from gradsae.lm import LM


def draw_windows(
    lm: LM,
    corpus: Corpus,
    split: Split,
    n: int,
    context_length: int,
    generator: torch.Generator,
) -> Int[Tensor, "n pos"]:
    """Return `n` windows of exactly `context_length` tokens, in random order.

    Every document gives the same number of windows, as far as it has them; the others make up for
    it. Raises UserError if the split is too short.
    """
    documents = corpus.documents(split)
    quota = -(-n // len(documents))
    chosen: list[np.ndarray] = []
    spare: list[np.ndarray] = []
    order = torch.randperm(len(documents), generator=generator).tolist()
    for i in tqdm(order, f"tokenise {corpus.name}/{split}", unit="doc", delay=2, disable=None):
        if len(chosen) >= n:
            break
        whole = _whole_windows(lm, documents[i]["text"], context_length)
        whole = [whole[j] for j in torch.randperm(len(whole), generator=generator).tolist()]
        chosen += whole[:quota]
        spare += whole[quota:]
    n_found = len(chosen) + len(spare)
    if n_found < n:
        raise UserError(
            f"corpus {corpus.name} has {n_found * context_length} tokens in whole windows of "
            f"{context_length} in its {split} split, but {n * context_length} are asked for: take "
            "fewer, a smaller context_length, or a larger corpus"
        )
    spare = [spare[i] for i in torch.randperm(len(spare), generator=generator).tolist()]
    windows = torch.from_numpy(np.stack((chosen + spare)[:n]))
    return windows[torch.randperm(n, generator=generator)]


def _whole_windows(lm: LM, text: str, context_length: int) -> list[np.ndarray]:
    packed = pack(
        [text],
        lambda one: lm.tokenize(one, special=False)[0],
        context_length,
        prefix=lm.prefix_ids,
        min_tokens=context_length,
    )
    return [window.tokens for window in packed]
