"""How far the records made here are from the published ones of the same task, config and seeds.

python -m benchmarks.reproduce                 the records of this machine
python -m benchmarks.reproduce --records DIR   those of another folder

A training repeats bit by bit on one kind of machine with one number of threads. Elsewhere sums are
rounded in another order and trainings drift apart, so a difference is shown beside what the seed
alone does to the score.
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

    here: Record
    published: Record

    def __str__(self) -> str:
        """Its name in messages."""
        return f"record {self.here.id}"

    @property
    def task(self) -> str:
        return self.published.task["name"]

    def differences(self, score: str) -> list[float]:
        """Of a score, or of its variants where it has no other value: here minus published."""
        own, names = self.here.scores, of(self.published, score)
        return [own[name] - self.published.scores[name] for name in names if name in own]


def pairs(here: Iterable[Entry], published: Iterable[Entry]) -> list[Pair]:
    """Match records by id; UserError where none has a published one."""
    known = {entry.record.id: entry.record for entry in published if entry.origin == OWN_ORIGIN}
    found = [entry.record for entry in here if entry.record.id in known]
    if not found:
        raise UserError(
            "no record made here has a published one of the same task, config and seeds; "
            "make some with `python -m benchmarks.experiments --run`"
        )
    return [Pair(here=record, published=known[record.id]) for record in found]


def rows(found: Sequence[Pair], settings: Sequence[Setting]) -> list[list[str]]:
    """One row per task and main score: how many differ, how far, and what a seed does to it.

    `difference` is the root of the mean square; `between seeds` the standard deviation over the
    published seeds of a setting, pooled over the settings of at least three that are matched.
    """
    table = []
    tasks = {pair.task for pair in found}
    for task in [*(t for t in TASKS if t in tasks), *sorted(tasks - set(TASKS))]:
        of_task = [pair for pair in found if pair.task == task]
        matched = {pair.published.id for pair in of_task}
        same = [
            setting for setting in settings if matched & {record.id for record in setting.records}
        ]
        for score in headline_of(of_task[0].published):
            every = [(abs(d), pair.here.id) for pair in of_task for d in pair.differences(score)]
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


def table(found: Sequence[Pair], settings: Sequence[Setting]) -> str:
    return console_table(HEADERS, rows(found, settings))


def between_seeds(settings: Iterable[Setting], score: str) -> float | None:
    """Pooled standard deviation over seeds; None without a setting of three."""
    within = [
        variance(values)
        for setting in settings
        for name in of(setting.first, score)
        if len(values := [r.scores[name] for r in setting.records if name in r.scores]) >= MIN_SEEDS
    ]
    return sqrt(fmean(within)) if within else None


def of(record: Record, score: str) -> list[str]:
    """The score alone, or a score per estimator, ranking or selector where that is what it has."""
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
    here, published = read(parser.parse_args().records), read("published")
    found = pairs(here, published)
    print(f"{len(found)} of {len(here)} records made here have a published one of the same id.\n")
    settings = make_settings(published)
    print(tolerant(lambda some: table(some, settings), found, str, "the comparison"))


if __name__ == "__main__":
    sys.exit(command(main))
