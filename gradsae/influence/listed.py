"""Tables of single prompts: their tokens, and latents that are among the first of a ranking."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from gradsae.lm.model import LM

Series = dict[str, list[Any]]


def latents_of(
    prompt: tuple[str, int],
    latents: Int[Tensor, " n"],
    peak: Int[Tensor, " n"],
    scores: Mapping[str, Float[Tensor, " n"]],
    *,
    first: str,
    n_listed: int,
) -> Series:
    """Return one row per latent among the first `n_listed` of a ranking, ordered by `first`.

    `prompt` is the name of the first column and its value; `peak` is the position at which a latent
    is largest. Scores and ranks (from 1, among all n latents) are in columns NAME and rank.NAME.
    """
    order = {name: values.argsort(descending=True, stable=True) for name, values in scores.items()}
    rank = {name: places.argsort() for name, places in order.items()}
    listed = {int(c) for places in order.values() for c in places[:n_listed]}
    rows = sorted(listed, key=lambda c: int(rank[first][c]))
    return {
        prompt[0]: [prompt[1]] * len(rows),
        "latent": [int(latents[c]) for c in rows],
        "peak": [int(peak[c]) for c in rows],
        **{name: [float(values[c]) for c in rows] for name, values in scores.items()},
        **{f"rank.{name}": [int(values[c]) + 1 for c in rows] for name, values in rank.items()},
    }


def tokens_of(prompt: tuple[str, int], token_ids: Int[Tensor, " pos"], lm: LM) -> Series:
    """Return one row per token."""
    n = len(token_ids)
    return {
        prompt[0]: [prompt[1]] * n,
        "position": list(range(n)),
        "token": lm.tokens.pieces(token_ids.tolist()),
    }


def stacked(tables: list[Series]) -> Series:
    """Return tables with the same columns as one table; at least one is needed."""
    return {name: [value for table in tables for value in table[name]] for name in tables[0]}
