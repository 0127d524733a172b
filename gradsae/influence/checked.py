"""Recall after exact checks: the true top K that are known once a ranking's first are ablated."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from gradsae.influence import ablation
from gradsae.influence.at_k import recall_after_checks
from gradsae.influence.compare import Scored
from gradsae.interfaces import Skipped
from gradsae.prompts.seen import SeenPrompt

CHECKS = (0, 5, 10, 15, 20, 30, 50, 75, 100, 150, 200)
"""Numbers of exact checks at which the recall is reported."""


class Checked(NamedTuple):
    """The recall after some number of exact checks of one estimator's ranking."""

    estimator: str
    k: int
    checks: int
    cost: float
    """Forward-equivalents of the estimator and the checks."""
    recall: float


def checked(
    seen: SeenPrompt,
    estimates: Scored,
    effect: Float[Tensor, " active"],
    ks: Sequence[int],
    cost: Mapping[str, float],
) -> list[Checked]:
    """Return the recall of the true top K after exact checks of each ranking's first latents.

    `cost` holds the cost of each estimator, in full forward passes.
    """
    rows = []
    for name, estimate in estimates.items():
        if isinstance(estimate, Skipped):
            continue
        order = estimate.argsort(descending=True, stable=True).to(seen.codes.device)
        for n in (n for n in CHECKS if n <= len(effect)):
            spent = ablation.forward_equivalents(seen, order[:n]) - 1 if n else 0.0
            for k in ks:
                recall = recall_after_checks(estimate, effect, k, n)
                if not isinstance(recall, Skipped):
                    rows.append(Checked(name, k, n, cost[name] + spent, recall))
    return rows
