"""Is a method tuning-free? What its default loses against the best setting of a grid.

python -m benchmarks.regret [--records local|published|both|DIR]   the table
python -m benchmarks.regret --choose    results/regret_choice.json, from records of regret_grid

Regret of a setting on a world: score of the best setting less score of this one, on the same seed.
The best is chosen by the mean of three scores on the seeds of `regret_grid` and evaluated on those
of `regret`: no maximum is taken over numbers that are reported, so chance cannot lift it, and a
regret can come out below 0. The constant is one setting for a world that is chosen on the other
worlds. Everything here is a pure function of records.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.launch.command import command
from benchmarks.places import ROOT
from benchmarks.results.declared import about_method, method_of
from benchmarks.results.reading import (
    LOCAL_ORIGIN,
    OWN_ORIGIN,
    Entry,
    add_records_argument,
    read,
)
from benchmarks.results.tolerance import tolerant
from benchmarks.results.vocabulary import order
from gradsae.about import About
from gradsae.errors import UserError
from gradsae.records.record import Record
from gradsae.stats.intervals import worlds_interval
from gradsae.storage.files import write_whole
from gradsae.tables.printing import MAX_CELL, markdown_table, printable

SERIES = "grid/scores"
"""`gradsae.metrics.grid.SERIES`, whose import would load torch."""
CHOOSING, REPORTED = "regret_grid", "regret"
SCORES = {"recovery.mcc": "MCC", "recovery.frr_0.9": "FRR .9", "detection.f1": "F1"}
MEAN = "mean"
"""Mean of the three scores: the one by which settings are chosen."""
CHOICE = ROOT / "results" / "regret_choice.json"
"""What `experiment=regret` trains beside each default: world -> method -> places in its grid."""

Values = tuple[Any, ...]
Choice = tuple[Values, Values]
"""The best setting of a world, and the constant: the best of the other worlds."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trained setting."""

    method: str
    about: About
    world: str
    seed: int
    setting: Values
    """Values of the varied fields."""
    is_default: bool
    scores: Mapping[str, float]
    """By name of `SCORES`, and `MEAN`."""


@dataclass(frozen=True, kw_only=True)
class Regret:
    """What one method loses on one world, by seed and by score."""

    method: str
    about: About
    world: str
    best: Mapping[str, Sequence[float]]
    """Scores of the setting chosen for this world; one value per seed, as below."""
    default: Mapping[str, Sequence[float]]
    """Regret of the method's default."""
    constant: Mapping[str, Sequence[float]]
    """Regret of the setting chosen on the other worlds."""


def runs(records: Iterable[Record], experiment: str) -> list[Run]:
    """Return the settings of all grids of an experiment; the label of a grid names its world."""
    found: list[Run] = []
    for record in records:
        if record.task["name"] != "grid" or record.setup.experiment != experiment:
            continue
        columns = record.series[SERIES]
        fields = list(tried(record)[0])
        for i, is_default in enumerate(columns["is_default"]):
            scores = {name: float(columns[name][i] or 0) for name in SCORES}
            found.append(
                Run(
                    method=method_of(record),
                    about=about_method(record),
                    world=str(record.setup.label),
                    seed=record.seeds["data"],
                    setting=tuple(columns[field][i] for field in fields),
                    is_default=is_default,
                    scores={**scores, MEAN: sum(scores.values()) / len(scores)},
                )
            )
    return found


def tried(record: Record) -> list[dict[str, Any]]:
    """Return the settings of a grid's record."""
    return record.setup.ask.settings or []


def means(found: Iterable[Run], score: str = MEAN) -> dict[tuple[str, Values], float]:
    """Return the mean over seeds of a score, by world and setting."""
    values: dict[tuple[str, Values], list[float]] = {}
    for run in found:
        values.setdefault((run.world, run.setting), []).append(run.scores[score])
    return {key: math.fsum(each) / len(each) for key, each in values.items()}


def best_constant(mean: Mapping[tuple[str, Values], float], worlds: Sequence[str]) -> Values:
    """Return the setting with the largest mean over some worlds, of those that all of them have.

    Of equals, the first that was tried.
    """
    settings = dict.fromkeys(setting for _, setting in mean)
    whole = [s for s in settings if all((world, s) in mean for world in worlds)]
    if not whole:
        raise ValueError(f"no setting was tried on all of {', '.join(worlds)}")
    return max(whole, key=lambda s: math.fsum(mean[world, s] for world in worlds))


def choices(found: Sequence[Run]) -> dict[tuple[str, str], Choice]:
    """Return what is chosen for each method and world, from runs that are not reported."""
    chosen: dict[tuple[str, str], Choice] = {}
    for method in dict.fromkeys(run.method for run in found):
        mean = means(run for run in found if run.method == method)
        worlds = list(dict.fromkeys(world for world, _ in mean))
        for world in worlds:
            others = [other for other in worlds if other != world]
            best = best_constant(mean, [world])
            chosen[method, world] = (best, best_constant(mean, others) if others else best)
    return chosen


def regrets(
    reported: Sequence[Run], chosen: Mapping[tuple[str, str], Choice]
) -> dict[tuple[str, str], Regret]:
    """Return the regrets of the methods and worlds whose chosen settings were run."""
    tables: dict[tuple[str, str], dict[Values, dict[int, Run]]] = {}
    defaults: dict[tuple[str, str], Values] = {}
    for run in reported:
        key = run.method, run.world
        tables.setdefault(key, {}).setdefault(run.setting, {})[run.seed] = run
        if run.is_default:
            defaults[key] = run.setting
    found: dict[tuple[str, str], Regret] = {}
    for key, table in tables.items():
        if key not in chosen or not {*chosen[key], defaults[key]} <= set(table):
            continue
        best, constant = (table[setting] for setting in chosen[key])
        default = table[defaults[key]]
        seeds = sorted(set(best) & set(constant) & set(default))
        names = (MEAN, *SCORES)
        found[key] = Regret(
            method=key[0],
            about=next(iter(default.values())).about,
            world=key[1],
            best={name: [best[s].scores[name] for s in seeds] for name in names},
            default={name: _gaps(best, default, seeds, name) for name in names},
            constant={name: _gaps(best, constant, seeds, name) for name in names},
        )
    return found


def _gaps(
    best: Mapping[int, Run], other: Mapping[int, Run], seeds: Sequence[int], name: str
) -> list[float]:
    return [best[seed].scores[name] - other[seed].scores[name] for seed in seeds]


def of_method(found: Mapping[tuple[str, str], Regret], method: str) -> list[Regret]:
    return [regret for regret in found.values() if regret.method == method]


def methods_of(found: Mapping[tuple[str, str], Regret]) -> list[str]:
    abouts = {method: regret.about for (method, _), regret in found.items()}
    return sorted(abouts, key=lambda name: order(abouts[name]))


def behind(found: Mapping[tuple[str, str], Regret], regret: Regret) -> float:
    """Return how far a method's default stays behind the best method's best setting, on a world:
    means over seeds, of the mean of the three scores."""
    rivals = [each for each in found.values() if each.world == regret.world]
    top = max(float(np.mean(each.best[MEAN])) for each in rivals)
    return top - float(np.mean(regret.best[MEAN])) + float(np.mean(regret.default[MEAN]))


def table_of(records: Sequence[Record]) -> str:
    """Return the table of some records; UserError where those of an experiment are missing."""
    chosen = choices(runs_of(records, CHOOSING))
    found = regrets(runs_of(records, REPORTED), chosen)
    if not found:
        raise UserError(
            f"no world has records of both experiment={CHOOSING} and experiment={REPORTED}: run "
            "them on the same worlds"
        )
    return table(found)


def runs_of(records: Sequence[Record], experiment: str) -> list[Run]:
    """Return the runs of an experiment; UserError where there are none."""
    made = runs(records, experiment)
    if not made:
        raise UserError(f"no records: run `python -m benchmarks.run experiment={experiment}`")
    return made


def table(found: Mapping[tuple[str, str], Regret]) -> str:
    """Return the table in Markdown: a row per method, the smallest regret of the default first."""
    head = ["method", "best", "regret of default", "... in MCC", "... in FRR .9", "... in F1"]
    head += ["worst world", "regret of constant", "default behind best method"]
    rows: list[tuple[float, list[str]]] = []
    for method in methods_of(found):
        of = of_method(found, method)
        default, low, high = worlds_interval([each.default[MEAN] for each in of])
        worst = max(of, key=lambda each: float(np.mean(each.default[MEAN])))
        cells = [
            of[0].about.label,
            f"{np.mean([np.mean(each.best[MEAN]) for each in of]):.3f}",
            f"{default:.3f} [{low:.3f}, {high:.3f}]",
            *(f"{worlds_interval([each.default[name] for each in of])[0]:.3f}" for name in SCORES),
            f"{np.mean(worst.default[MEAN]):.3f} ({worst.world.replace('_', '-')})",
            "{:.3f} [{:.3f}, {:.3f}]".format(*worlds_interval([e.constant[MEAN] for e in of])),
            f"{np.mean([behind(found, each) for each in of]):.3f}",
        ]
        rows.append((default, cells))
    ordered = [cells for _, cells in sorted(rows, key=lambda row: row[0])]
    return markdown_table(head, ordered)


def chosen_json(records: Sequence[Record]) -> str:
    """Return the file that says, by world and method, which settings `experiment=regret` trains
    beside the default: their places in conf/grid/<method>.yaml."""
    listed = {
        method_of(record): [tuple(one.values()) for one in tried(record)]
        for record in records
        if record.setup.experiment == CHOOSING
    }
    worlds: dict[str, dict[str, list[int]]] = {}
    for (method, world), settings in choices(runs_of(records, CHOOSING)).items():
        places = [listed[method].index(s) for s in settings if s in listed[method]]
        worlds.setdefault(world, {})[method] = sorted(set(places))
    lines = [f"  {json.dumps(world)}: {json.dumps(of)}" for world, of in worlds.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def constants(records: Sequence[Record]) -> str:
    """Return, for each method, the setting with the best mean over all worlds, as text."""
    found = runs(records, CHOOSING)
    lines: list[str] = []
    for method in dict.fromkeys(run.method for run in found):
        mean = means(run for run in found if run.method == method)
        worlds = list(dict.fromkeys(world for world, _ in mean))
        setting = best_constant(mean, worlds)
        fields = next(
            list(tried(r)[0])
            for r in records
            if method_of(r) == method and r.setup.experiment == CHOOSING
        )
        score = math.fsum(mean[world, setting] for world in worlds) / len(worlds)
        words = ", ".join(f"{k}={v}" for k, v in zip(fields, setting, strict=True))
        lines.append(printable(f"{method}: {words} ({score:.3f})", MAX_CELL))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_records_argument(parser)
    parser.add_argument("--choose", action="store_true", help="write results/regret_choice.json")
    args = parser.parse_args()
    entries = read(args.records)
    if args.choose:
        own = [entry for entry in entries if entry.origin in (OWN_ORIGIN, LOCAL_ORIGIN)]
        choice, text = tolerant(_choice, own, str, "the choice")
        write_whole(CHOICE, choice)
        print(f"{CHOICE.name} is written; best constant of each method over all worlds:")
        print(text)
        return
    print(tolerant(_table, entries, str, "the table of regrets"))


def _choice(entries: Sequence[Entry]) -> tuple[str, str]:
    """Return the file of the choice, and the constants in words.

    What others sent in must not shape what is trained here: the caller leaves it out.
    """
    records = [entry.record for entry in entries]
    return chosen_json(records), constants(records)


def _table(entries: Sequence[Entry]) -> str:
    return table_of([entry.record for entry in entries])


if __name__ == "__main__":
    sys.exit(command(main))
