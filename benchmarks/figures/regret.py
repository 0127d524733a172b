"""Is it tuning-free? Regret of each method's default, and of one constant, world by world."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.figures.drawing import Drawing
from benchmarks.figures.looks import BLACK, GREY, Look, looks
from benchmarks.figures.style import COLUMN, handle, legend_below, line_handle, new_figure
from benchmarks.regret import (
    CHOOSING,
    MEAN,
    REPORTED,
    Regret,
    choices,
    methods_of,
    of_method,
    regrets,
    runs,
)
from benchmarks.results.settings import Setting
from gradsae.about import About
from gradsae.stats.intervals import worlds_interval

NAME = "regret"
COMMAND = "python -m benchmarks.run experiment=regret_grid, then experiment=regret"
PANELS = {"default": "the default", "constant": "one constant, chosen on the other worlds"}
SPREAD = 0.26
"""Worlds of a method stand this far above and below its row."""


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        c for c in settings if c.task == "grid" and c.setup.experiment in (CHOOSING, REPORTED)
    ]
    records = [record for setting in settings for record in setting.records]
    found = regrets(runs(records, REPORTED), choices(runs(records, CHOOSING)))
    if not found:
        return None
    methods = sorted(methods_of(found), key=lambda method: _mean(found, method, "default"))
    worlds = list(dict.fromkeys(world for _, world in sorted(found)))
    of = looks({world: About(label=world) for world in worlds})
    figure, grid = new_figure(
        *(1, len(PANELS)),
        width=2 * COLUMN,
        height=1.1 + 0.3 * len(methods),
        sharey=True,
        sharex=True,
    )
    for axes, (kind, words) in zip(grid[0], PANELS.items(), strict=True):
        for at, method in enumerate(methods):
            _row(axes, at, of_method(found, method), kind, of)
        axes.set_title(words)
        axes.set_xlabel("regret, mean of MCC, FRR .9 and F1")
        axes.axvline(0, color=GREY, linewidth=0.6)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    names = [of_method(found, method)[0].about.label for method in methods]
    grid[0][0].set_yticks(range(len(methods)), names)
    grid[0][0].set_ylim(len(methods) - 0.4, -0.6)
    shown = [line_handle(w.replace("_", "-"), of[w], linestyle="") for w in worlds]
    shown.append(handle("mean over worlds", BLACK, "|", markersize=9))
    legend_below(figure, shown, 4)
    return Drawing(
        figure=figure,
        title="What does a method lose without tuning?",
        text="Regret: score of the setting chosen for a world less the score of its default (left) "
        "and of one constant setting chosen on the other worlds (right), on the same seeds; lower "
        "is better, 0 is nothing lost. Score: mean of MCC, FRR at .9 and F1. Settings are chosen "
        "on other seeds than those drawn, so a regret can be below 0. Points: worlds, mean over "
        "seeds; bars: mean over worlds with its 95 % bootstrap interval over worlds and seeds. A "
        "k is the same number on every world. `python -m benchmarks.regret` prints the table.",
        settings=settings,
    )


def _mean(found: Mapping[tuple[str, str], Regret], method: str, kind: str) -> float:
    return float(np.mean([np.mean(_values(each, kind)) for each in of_method(found, method)]))


def _values(regret: Regret, kind: str) -> Sequence[float]:
    return (regret.default if kind == "default" else regret.constant)[MEAN]


def _row(axes: Any, at: int, regrets: Sequence[Regret], kind: str, of: Mapping[str, Look]) -> None:
    values = [_values(each, kind) for each in regrets]
    mean, low, high = worlds_interval(values)
    axes.plot([low, high], [at, at], color=BLACK, linewidth=1.0, zorder=3)
    axes.plot(mean, at, "|", color=BLACK, markersize=11, markeredgewidth=1.6, zorder=4)
    for each, row in zip(regrets, values, strict=True):
        place = list(of).index(each.world)
        colour, marker, _ = of[each.world]
        shift = SPREAD * (2 * place / max(1, len(of) - 1) - 1)
        axes.plot(np.mean(row), at + shift, marker, color=colour, markersize=3.4, zorder=2)
