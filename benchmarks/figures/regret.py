"""Draw the regret of each method's default, and of one constant setting, world by world."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.figures.drawing import Drawing
from benchmarks.figures.looks import BLACK, GREY, Look, looks
from benchmarks.figures.style import (
    COLUMN,
    handle,
    legend_below,
    line_handle,
    new_figure,
    set_rows,
)
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
"""Largest distance of a world's marker from the middle of its method's row."""


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting
        for setting in settings
        if setting.task == "grid" and setting.setup.experiment in (CHOOSING, REPORTED)
    ]
    records = [record for setting in settings for record in setting.records]
    regret_by_cell = regrets(runs(records, REPORTED), choices(runs(records, CHOOSING)))
    if not regret_by_cell:
        return None
    by_method = {method: of_method(regret_by_cell, method) for method in methods_of(regret_by_cell)}
    by_method = dict(sorted(by_method.items(), key=lambda item: _mean(item[1], "default")))
    worlds = list(dict.fromkeys(world for _, world in sorted(regret_by_cell)))
    look_by_world = looks({world: About(label=world) for world in worlds})
    figure, grid = new_figure(
        *(1, len(PANELS)),
        width=2 * COLUMN,
        height=1.1 + 0.3 * len(by_method),
        sharey=True,
        sharex=True,
    )
    for axes, (kind, heading) in zip(grid[0], PANELS.items(), strict=True):
        for at, group in enumerate(by_method.values()):
            _row(axes, at, group, kind, look_by_world)
        axes.set_title(heading)
        axes.set_xlabel("regret, mean of MCC, FRR .9 and F1")
        axes.axvline(0, color=GREY, linewidth=0.6)
        set_rows(axes)
    names = [group[0].about.label for group in by_method.values()]
    grid[0][0].set_yticks(range(len(names)), names)
    grid[0][0].set_ylim(len(names) - 0.4, -0.6)
    handles = [line_handle(w.replace("_", "-"), look_by_world[w], linestyle="") for w in worlds]
    handles.append(
        handle("mean over worlds, 95 % interval", BLACK, "|", linestyle="-", markersize=9)
    )
    legend_below(figure, handles, 4)
    return Drawing(
        figure=figure,
        title="Regret without tuning.",
        text="Regret: the score of the setting that was chosen for a world, minus the score of the "
        "method's default (left) or of one constant setting that was chosen on the other worlds "
        "(right), on the same seeds. Lower is better; at 0 nothing is lost. Score: mean of MCC, "
        "FRR at .9 and F1. Settings were chosen on other seeds than those drawn, so a regret can "
        "be below 0. Points: worlds, mean over seeds. Bars: mean over worlds with its 95 % "
        "bootstrap interval over worlds and seeds. k is the same number on every world. `python -m "
        "benchmarks.regret` prints the table.",
        settings=settings,
    )


def _mean(regrets: Sequence[Regret], kind: str) -> float:
    return float(np.mean([np.mean(_values(regret, kind)) for regret in regrets]))


def _values(regret: Regret, kind: str) -> Sequence[float]:
    """Return the regret of each seed; `kind` is a key of `PANELS`."""
    return (regret.default if kind == "default" else regret.constant)[MEAN]


def _row(
    axes: Any, at: int, regrets: Sequence[Regret], kind: str, look_by_world: Mapping[str, Look]
) -> None:
    values = [_values(regret, kind) for regret in regrets]
    mean, low, high = worlds_interval(values)
    axes.plot([low, high], [at, at], color=BLACK, linewidth=1.0, zorder=3)
    axes.plot(mean, at, "|", color=BLACK, markersize=11, markeredgewidth=1.6, zorder=4)
    for regret, by_seed in zip(regrets, values, strict=True):
        place = list(look_by_world).index(regret.world)
        shift = SPREAD * (2 * place / max(1, len(look_by_world) - 1) - 1)
        look, style = look_by_world[regret.world], {"markersize": 3.4, "zorder": 2}
        axes.plot(np.mean(by_seed), at + shift, look.marker, color=look.colour, **style)
