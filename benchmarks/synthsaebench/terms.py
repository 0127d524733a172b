"""The scores of SynthSAEBench: what sae-lens calls each, and which of ours it is."""

from collections.abc import Callable, Mapping
from typing import NamedTuple


def _same(value: float, d_sae: int) -> float:
    return value


def _count(value: float, d_sae: int) -> float:
    """Return the number of latents of a share."""
    return value * d_sae


def _rest(value: float, d_sae: int) -> float:
    """Return the explained share of the variance, given the unexplained one."""
    return 1 - value


class Term(NamedTuple):
    """One score of `sae_lens.synthetic.eval_sae_on_synthetic_data`."""

    name: str
    """Its field in their result, or in the classification inside it."""
    header: str
    score: str
    """The score of ours that it is made from."""
    of: Callable[[float, int], float] = _same
    """Their value, given ours and the number of latents."""


TERMS = (
    Term("f1_score", "F1", "latents/f1"),
    Term("precision", "precision", "latents/precision"),
    Term("recall", "recall", "latents/recall"),
    Term("mcc", "MCC", "recovery/mcc/matched"),
    Term("uniqueness", "uniqueness", "splitting/uniqueness"),
    Term("sae_l0", "l0", "sparsity/l0"),
    Term("dead_latents", "dead", "sparsity/dead", _count),
    Term("explained_variance", "EV", "reconstruction/fvu", _rest),
)
"""In the order of tables."""


def in_their_terms(scores: Mapping[str, float], d_sae: int) -> dict[str, float]:
    """Return the scores of a record under their names; those that it does not have are left out."""
    return {term.name: term.of(scores[term.score], d_sae) for term in TERMS if term.score in scores}
