"""From masked questions to scores: means over contexts with intervals, and tables for figures."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from gradsae.interfaces import Scores
from gradsae.lm.model import LM
from gradsae.masking.answers import exact_match, f1
from gradsae.masking.curves import area, faithfulness
from gradsae.masking.rankings import ORACLE
from gradsae.masking.sets import K, LatentSet, overlap
from gradsae.masking.tables import (
    Swapped,
    latents_table,
    questions_table,
    swaps_table,
    tokens_table,
)
from gradsae.masking.trial import Trial
from gradsae.stats.intervals import prompts_interval

BASELINE = "mean_act"


class Row(NamedTuple):
    """One mask of one question, with its scores."""

    trial: Trial
    place: int

    @property
    def set(self) -> LatentSet:
        return self.trial.sets[self.place]

    @property
    def drop(self) -> float:
        return self.trial.drop[self.place].item()

    @property
    def mark_drop(self) -> float | None:
        drops = self.trial.mark_drop
        return None if drops is None else drops[self.place].item()

    @property
    def em(self) -> float | None:
        return self._written(exact_match)

    @property
    def f1(self) -> float | None:
        return self._written(f1)

    @property
    def faithfulness(self) -> float | None:
        trial = self.trial
        return faithfulness(trial.clean - self.drop, trial.clean, trial.empty)

    def _written(self, measure: Any) -> float | None:
        text = self.trial.written.get(self.place)
        return None if text is None else measure(text, self.trial.question.candidate.answers)


Key = tuple[str, str, K]
"""Ranking, kind and K of a mask."""


class Values(NamedTuple):
    """One number per question, with the context of each question."""

    context: list[int]
    value: list[float]

    def means(self) -> torch.Tensor:
        """Return one mean per context, because questions on one context are not independent."""
        groups: dict[int, list[float]] = defaultdict(list)
        for context, value in zip(self.context, self.value, strict=True):
            groups[context].append(value)
        means = [sum(group) / len(group) for group in groups.values()]
        return torch.tensor(means, dtype=torch.float64)


def gather(pairs: Iterable[tuple[Trial, float | None]]) -> Values:
    """Collect the values of questions that have one."""
    complete = [(trial, value) for trial, value in pairs if value is not None]
    contexts = [trial.question.candidate.context_index for trial, _ in complete]
    return Values(contexts, [value for _, value in complete])


def summarise(
    trials: Sequence[Trial],
    swaps: Sequence[Swapped],
    lm: LM,
    main_k: K,
    n_pages: int,
    seed: int,
) -> Scores:
    """Return the scores of `Masking`; there must be a trial."""
    rows: dict[Key, list[Row]] = defaultdict(list)
    for trial in trials:
        for place, latent_set in enumerate(trial.sets):
            rows[latent_set.ranking, latent_set.kind, latent_set.k].append(Row(trial, place))
    n_written = sum(bool(trial.written) for trial in trials)
    n = {"masking/questions": len(trials), "masking/questions_written": n_written}
    out = Scores(scores={}, n=n)
    _add(out, "masking/n_active", gather((t, float(len(t.latents))) for t in trials), seed)
    _add(out, "masking/target_log_prob", gather((t, t.clean) for t in trials), seed)
    for ranking in dict.fromkeys(ranking for ranking, _, _ in rows):
        _add_main(out, rows, ranking, main_k, seed)
        _add_areas(out, trials, rows, ranking, seed)
        _add_overlaps(out, trials, rows, ranking, main_k, seed)
    _add_interplay(out, trials, seed)
    _add_swaps(out, trials, swaps, seed)
    out.series["masking/curve"] = _curve(rows, seed)
    out.series["masking/overlaps"] = _overlap_table(rows, main_k)
    out.series["masking/questions"] = questions_table(trials, lm)
    if n_pages:
        out.series["masking/latents"] = latents_table(trials[:n_pages])
        out.series["masking/tokens"] = tokens_table(trials[:n_pages], lm)
    if n_pages and swaps:
        out.series["masking/swaps"] = swaps_table(trials[:n_pages], swaps)
    return out


def _add(out: Scores, name: str, values: Values, seed: int) -> None:
    """Add the mean over contexts, where there is a value."""
    if not values.value:
        return
    means = values.means()
    out.scores[name] = means.mean().item()
    out.n[name] = len(means)
    if len(means) > 1:
        out.intervals[name] = prompts_interval(means.tolist(), seed)


def _add_main(
    out: Scores, rows: Mapping[Key, Sequence[Row]], ranking: str, main_k: K, seed: int
) -> None:
    top, low = rows.get((ranking, "top", main_k), ()), rows.get((ranking, "bottom", main_k), ())
    score_names = ("drop", "mark_drop", "em", "f1")
    for prefix, group in (("", top), ("bottom_", low)):
        for score in score_names:
            values = gather((row.trial, getattr(row, score)) for row in group)
            _add(out, f"masking/{prefix}{score}/{ranking}", values, seed)
    base = {row.trial.index: row for row in rows.get((BASELINE, "top", main_k), ())}
    both = [(row, base[row.trial.index]) for row in top if row.trial.index in base]
    if not both or ranking == BASELINE:
        return
    ahead = gather((row.trial, row.drop - other.drop) for row, other in both)
    _add(out, f"masking/advantage/{ranking}", ahead, seed)
    marks = [
        (row.trial, row.mark_drop - other.mark_drop)
        for row, other in both
        if row.mark_drop is not None and other.mark_drop is not None
    ]
    _add(out, f"masking/mark_advantage/{ranking}", gather(marks), seed)


def _add_areas(
    out: Scores,
    trials: Sequence[Trial],
    rows: Mapping[Key, Sequence[Row]],
    ranking: str,
    seed: int,
) -> None:
    for kind, name in (("top", "deletion_area"), ("keep", "insertion_area")):
        group_rows = [
            row for key, members in rows.items() if key[:2] == (ranking, kind) for row in members
        ]
        areas = []
        for trial in trials:
            points = [
                (row.set.n, row.faithfulness)
                for row in group_rows
                if row.trial is trial and row.faithfulness is not None
            ]
            sizes, values = [n for n, _ in points], [v for _, v in points if v is not None]
            areas.append((trial, area(sizes, values)))
        _add(out, f"masking/{name}/{ranking}", gather(areas), seed)


def _add_overlaps(
    out: Scores,
    trials: Sequence[Trial],
    rows: Mapping[Key, Sequence[Row]],
    ranking: str,
    main_k: K,
    seed: int,
) -> None:
    mine = {row.trial.index: row for row in rows.get((ranking, "top", main_k), ())}
    truth = {row.trial.index: row for row in rows.get((ORACLE, "top", main_k), ())}
    if ranking != ORACLE:
        common = [(row.trial, _common(row, truth[i])) for i, row in mine.items() if i in truth]
        _add(out, f"masking/oracle_overlap/{ranking}", gather(common), seed)
    contexts = {t.index: t.question.candidate.context_index for t in trials}
    between = [
        (row.trial, _common(row, other))
        for i, row in mine.items()
        for j, other in mine.items()
        if i < j and contexts[i] == contexts[j]
    ]
    _add(out, f"masking/question_overlap/{ranking}", gather(between), seed)


def _common(a: Row, b: Row) -> float:
    return overlap(a.trial.latents[a.set.columns.cpu()], b.trial.latents[b.set.columns.cpu()])


def _add_interplay(out: Scores, trials: Sequence[Trial], seed: int) -> None:
    for name in trials[0].interplays:
        for measure in ("additivity", "interaction", "backup"):
            values = gather((t, getattr(t.interplays[name], measure)) for t in trials)
            _add(out, f"masking/{measure}/{name}", values, seed)


def _add_swaps(out: Scores, trials: Sequence[Trial], swaps: Sequence[Swapped], seed: int) -> None:
    by_index = {trial.index: trial for trial in trials}
    for ranking in dict.fromkeys(swapped.ranking for swapped in swaps):
        mine = [(by_index[s.into], by_index[s.donor], s) for s in swaps if s.ranking == ranking]
        for score, field in (("gain", "gain"), ("own", "own_change"), ("greedy", "greedy")):
            values = gather((into, float(getattr(s.swap, field))) for into, _, s in mine)
            _add(out, f"masking/swap_{score}/{ranking}", values, seed)
        for score, measure in (("em", exact_match), ("f1", f1)):
            judged = gather((into, _judged(s, donor, measure)) for into, donor, s in mine)
            _add(out, f"masking/swap_{score}/{ranking}", judged, seed)
        kept_answers = gather((into, _judged(s, into, exact_match)) for into, _, s in mine)
        _add(out, f"masking/swap_own_em/{ranking}", kept_answers, seed)


def _judged(swapped: Swapped, right: Trial, measure: Any) -> float | None:
    """Return how well what a steered model wrote fits the answer of a question."""
    text = swapped.swap.text
    return None if text is None else measure(text, right.question.candidate.answers)


def _curve(rows: Mapping[Key, Sequence[Row]], seed: int) -> dict[str, list[Any]]:
    """Return one row per ranking, kind and K: means over contexts; null if there is none."""
    table: dict[str, list[Any]] = defaultdict(list)
    for (ranking, kind, k), group in rows.items():
        means = Scores(scores={})
        for score in ("drop", "mark_drop", "faithfulness", "em", "f1"):
            _add(means, score, gather((row.trial, getattr(row, score)) for row in group), seed)
        low, high = means.intervals.get("drop", (None, None))
        line = {
            "ranking": ranking,
            "kind": kind,
            "k": str(k) if isinstance(k, int) else f"{k:.0%}",
            "n_latents": sum(row.set.n for row in group) / len(group),
            **{w: means.scores.get(w) for w in ("drop", "mark_drop", "faithfulness", "em", "f1")},
            "drop_low": low,
            "drop_high": high,
            "n": len(group),
            "n_written": sum(row.em is not None for row in group),
        }
        for name, value in line.items():
            table[name].append(value)
    return dict(table)


def _overlap_table(rows: Mapping[Key, Sequence[Row]], main_k: K) -> dict[str, list[Any]]:
    """Return the mean overlap of the sets of two rankings on one question, top and bottom."""
    table: dict[str, list[Any]] = {"kind": [], "a": [], "b": [], "overlap": [], "n": []}
    keys = [key for key in rows if key[1] != "keep" and key[2] == main_k]
    for first in keys:
        for second in keys:
            if first[1] != second[1] or first[0] >= second[0]:
                continue
            other = {row.trial.index: row for row in rows[second]}
            pairs = [(r, other[r.trial.index]) for r in rows[first] if r.trial.index in other]
            if pairs:
                overlaps = [_common(a, b) for a, b in pairs]
                values = (
                    first[1],
                    first[0],
                    second[0],
                    sum(overlaps) / len(overlaps),
                    len(overlaps),
                )
                for name, value in zip(table, values, strict=True):
                    table[name].append(value)
    return table
