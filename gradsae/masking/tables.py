"""Tables of single questions, for the pages."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from gradsae.influence.listed import latents_of, stacked, tokens_of
from gradsae.lm.model import LM
from gradsae.masking.rankings import ORACLE
from gradsae.masking.swap import Swap
from gradsae.masking.trial import Trial

MAX_CHARACTERS = 2_000
N_LISTED = 20
"""Latents of each ranking in the table of latents."""


class Swapped(NamedTuple):
    ranking: str
    into: int
    """Index of the question that is steered."""
    donor: int
    swap: Swap


def questions_table(trials: Sequence[Trial], lm: LM) -> dict[str, list[Any]]:
    """Return one row per question."""
    return {
        "question": [trial.index for trial in trials],
        "context": [trial.question.candidate.context_index for trial in trials],
        "text": [lm.text(trial.question.asked_ids)[:MAX_CHARACTERS] for trial in trials],
        "answer": [trial.question.candidate.answers[0] for trial in trials],
        "n_tokens": [len(trial.question.token_ids) for trial in trials],
        "n_active": [len(trial.latents) for trial in trials],
        "log_prob": [trial.clean for trial in trials],
        "log_prob_without_latents": [trial.empty for trial in trials],
    }


def latents_table(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    """Return the latents among the first of some ranking, with score and rank by each."""
    return stacked(
        [
            latents_of(
                ("question", trial.index),
                trial.latents,
                trial.peak,
                trial.scores,
                first=ORACLE if ORACLE in trial.scores else next(iter(trial.scores)),
                n_listed=N_LISTED,
            )
            for trial in trials
        ]
    )


def tokens_table(trials: Sequence[Trial], lm: LM) -> dict[str, list[Any]]:
    """Return the tokens of the questions, one row each."""
    return stacked(
        [tokens_of(("question", trial.index), trial.question.token_ids, lm) for trial in trials]
    )


def swaps_table(trials: Sequence[Trial], swaps: Sequence[Swapped]) -> dict[str, list[Any]]:
    """Return one row per swap into these questions: effects in nats, and the written text."""
    shown = {trial.index for trial in trials}
    rows = [row for row in swaps if row.into in shown]
    return {
        "ranking": [row.ranking for row in rows],
        "into": [row.into for row in rows],
        "donor": [row.donor for row in rows],
        "gain": [row.swap.gain for row in rows],
        "own": [row.swap.own_change for row in rows],
        "text": [row.swap.text for row in rows],
    }
