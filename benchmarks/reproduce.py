"""How far the records made here are from the published ones of the same task, config and seeds.

python -m benchmarks.reproduce                 the records of this machine
python -m benchmarks.reproduce --records DIR   those of another folder

A training repeats bit by bit on one kind of machine with one number of threads. Elsewhere sums are
rounded in another order and trainings drift apart, so a difference is shown beside the
spread of the score over seeds.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, variance

from benchmarks.launch.command import command
from benchmarks.results.declared import headline_of, score_of
from benchmarks.results.reading import OWN_ORIGIN, Entry, read
from benchmarks.results.settings import MIN_SEEDS, Setting, make_settings
from benchmarks.results.tolerance import tolerant
from benchmarks.results.vocabulary import TASKS, format_score
from gradsae.errors import UserError
from gradsae.records.record import Record
from gradsae.tables.printing import console_table

HEADERS = ("task", "score", "n", "equal", "difference", "largest", "in record", "between seeds")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A record made here and the published one of its id."""

    made: Record
    published: Record

    def __str__(self) -> str:
        """Its name in messages."""
        return f"record {self.made.id}"

    @property
    def task(self) -> str:
        return self.published.task["name"]

    def differences(self, score: str) -> list[float]:
        """Return a score made here minus the published one, or those of its variants."""
        scores, names = self.made.scores, variants(self.published, score)
        return [scores[name] - self.published.scores[name] for name in names if name in scores]


def pairs(made: Iterable[Entry], published: Iterable[Entry]) -> list[Pair]:
    """Match records by id; UserError where none has a published one."""
    by_id = {entry.record.id: entry.record for entry in published if entry.origin == OWN_ORIGIN}
    matched = [entry.record for entry in made if entry.record.id in by_id]
    if not matched:
        raise UserError(
            "no record made here has a published one of the same task, config and seeds; "
            "make some with `python -m benchmarks.experiments --run`"
        )
    return [Pair(made=record, published=by_id[record.id]) for record in matched]


def rows(matched_pairs: Sequence[Pair], settings: Sequence[Setting]) -> list[list[str]]:
    """Return a row per task and main score: equal pairs, differences, and the spread over seeds.

    `difference` is the root of the mean square; `between seeds` the standard deviation over the
    published seeds of a setting, pooled over the settings of at least three that are matched.
    """
    table = []
    tasks = {pair.task for pair in matched_pairs}
    for task in [*(t for t in TASKS if t in tasks), *sorted(tasks - set(TASKS))]:
        of_task = [pair for pair in matched_pairs if pair.task == task]
        matched = {pair.published.id for pair in of_task}
        same = [
            setting for setting in settings if matched & {record.id for record in setting.records}
        ]
        for score in headline_of(of_task[0].published):
            every = [(abs(d), pair.made.id) for pair in of_task for d in pair.differences(score)]
            if not every:
                continue
            size, where = max(every)
            table.append(
                [
                    *(task, score_of(of_task[0].published, score).header, str(len(every))),
                    str(sum(d == 0 for d, _ in every)),
                    format_score(sqrt(fmean(d**2 for d, _ in every))),
                    *(format_score(size), where if size else "-"),
                    format_score(between_seeds(same, score)),
                ]
            )
    return table


def table(matched: Sequence[Pair], settings: Sequence[Setting]) -> str:
    return console_table(HEADERS, rows(matched, settings))


def between_seeds(settings: Iterable[Setting], score: str) -> float | None:
    """Return the pooled standard deviation over seeds; None without a setting of three."""
    within = [
        variance(values)
        for setting in settings
        for name in variants(setting.first, score)
        if len(values := [r.scores[name] for r in setting.records if name in r.scores]) >= MIN_SEEDS
    ]
    return sqrt(fmean(within)) if within else None


def variants(record: Record, score: str) -> list[str]:
    """Return the score, or its variants where the record has no score of this bare name."""
    if score in record.scores:
        return [score]
    return [name for name in record.scores if name.startswith(f"{score}/")]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--records", default="local", metavar="local|DIR", help="records made here")
    made, published = read(parser.parse_args().records), read("published")
    matched = pairs(made, published)
    print(f"{len(matched)} of {len(made)} records made here have a published one of the same id.\n")
    settings = make_settings(published)
    print(tolerant(lambda some: table(some, settings), matched, str, "the comparison"))


if __name__ == "__main__":
    sys.exit(command(main))
