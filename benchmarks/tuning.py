"""Settings of experiment=growth, chosen from the records of experiment=growth_tuning.

python -m benchmarks.tuning     write conf/calibration/growth_<world>.yaml, one file for each world

For each world, method and length of training the setting with the best mean of MCC, FRR .9 and F1
is chosen, over the widths and seeds that were tried; of equals, the first. Every method must have
had as many trials as the others: its default is one, and a training that diverged is one, too.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.launch.command import command
from benchmarks.places import CONF
from benchmarks.regret import SCORES, SERIES, tried
from benchmarks.results.declared import method_of
from benchmarks.results.growth import n_rows, width
from benchmarks.results.reading import LOCAL_ORIGIN, OWN_ORIGIN, read
from gradsae.errors import UserError
from gradsae.records.record import Record
from gradsae.storage.files import write_whole

EXPERIMENT = "growth_tuning"
NAME = re.compile(r"[a-z][a-z0-9_]*")
"""Of a world, a method and a field: part of a file's name, and keys in it."""
Values = tuple[float | int, ...]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The grid of one method on one world, at one length, width and seed."""

    world: str
    method: str
    rows: int
    width: float
    seed: int
    fields: tuple[str, ...]
    means: Mapping[Values, float]
    """By setting: the mean of the three scores; 0 for a training that diverged."""


def trials(records: Iterable[Record]) -> list[Trials]:
    """Return the grids of the experiment, in the order of worlds, methods and lengths."""
    grids = [
        _trials(record)
        for record in records
        if record.task["name"] == "grid" and record.setup.experiment == EXPERIMENT
    ]
    return sorted(grids, key=lambda each: (each.world, each.method, each.rows, each.width))


def _trials(record: Record) -> Trials:
    columns, fields = record.series[SERIES], tuple(tried(record)[0])
    means: dict[Values, float] = {}
    for i in range(len(columns["is_default"])):
        setting = tuple(_number(columns[field][i]) for field in fields)
        means[setting] = sum(float(columns[name][i] or 0) for name in SCORES) / len(SCORES)
    return Trials(
        world=_name(record.setup.label),
        method=_name(method_of(record)),
        rows=n_rows(record),
        width=width(record) or 0.0,
        seed=record.seeds["data"],
        fields=tuple(_name(field.removeprefix("optim.")) for field in fields),
        means=means,
    )


def _name(text: Any) -> str:
    if not isinstance(text, str) or not NAME.fullmatch(text):
        raise UserError(
            f"a world, method or field of {EXPERIMENT} must have a plain name, got {text!r:.40}"
        )
    return text


def _number(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise UserError(f"a setting of {EXPERIMENT} must be a number, got {value!r:.40}")
    return value


def best(grids: Sequence[Trials]) -> Values:
    """Return the setting with the best mean over some grids, of those that all of them tried."""
    first, *others = grids
    shared = [s for s in first.means if all(s in other.means for other in others)]
    if not shared:
        raise UserError(f"{first.world}, {first.method}: no setting was tried in all its grids")
    return max(shared, key=lambda setting: sum(grid.means[setting] for grid in grids))


def n_trials(grids: Iterable[Trials]) -> int:
    """Return how many trials every method had at each length; UserError where they differ."""
    counts = {grid.method: len(grid.means) for grid in grids}
    if len({len(grid.means) for grid in grids}) != 1:
        said = ", ".join(f"{method} {n}" for method, n in counts.items())
        raise UserError(f"methods must have the same number of trials, got {said}")
    return next(iter(counts.values()))


def calibration(grids: Sequence[Trials]) -> str:
    """Return the file of one world, whose header says how often each method was tried."""
    methods: dict[str, dict[int, list[Trials]]] = {}
    for grid in grids:
        methods.setdefault(grid.method, {}).setdefault(grid.rows, []).append(grid)
    widths = ", ".join(f"{each:g}" for each in sorted({grid.width for grid in grids}))
    seeds = ", ".join(str(seed) for seed in sorted({grid.seed for grid in grids}))
    lines = [
        f"# Chosen by `python -m benchmarks.tuning` on experiment={EXPERIMENT}: {n_trials(grids)} "
        "trials of each method at each",
        f"# length of training (rows), widths {widths}, seed {seeds}; by the mean of MCC, FRR .9 "
        "and F1.",
    ]
    for method, by_rows in methods.items():
        lines.append(f"{method}:")
        chosen = {rows: best(tries) for rows, tries in by_rows.items()}
        for i, field in enumerate(next(iter(by_rows.values()))[0].fields):
            values = ", ".join(f"{rows}: {setting[i]}" for rows, setting in chosen.items())
            lines.append(f"  {field}: {{by_rows: {{{values}}}}}")
    return "\n".join(lines) + "\n"


def files(records: Iterable[Record]) -> dict[str, str]:
    """Return the calibration files by name; UserError where there is no record."""
    worlds: dict[str, list[Trials]] = {}
    for grid in trials(records):
        worlds.setdefault(grid.world, []).append(grid)
    if not worlds:
        raise UserError(f"no records: run `python -m benchmarks.run experiment={EXPERIMENT}`")
    return {f"growth_{world}.yaml": calibration(grids) for world, grids in worlds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.parse_args()
    own = [each.record for each in read("both") if each.origin in (OWN_ORIGIN, LOCAL_ORIGIN)]
    for name, text in files(own).items():
        write_whole(CONF / "calibration" / name, text)
        print(f"conf/calibration/{name} is written")


if __name__ == "__main__":
    sys.exit(command(main))
