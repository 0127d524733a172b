"""Training curves: error, sparsity and dead latents by step."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import Cell
from benchmarks.figures.drawing import Drawing
from benchmarks.figures.looks import series
from benchmarks.figures.style import (
    PAGE,
    handle,
    legend_right,
    new_figure,
    plain_log,
    title,
)
from benchmarks.naming import labels
from benchmarks.worlds import World, make_worlds

NAME = "training"
COMMAND = "python -m benchmarks.run -m trainer=topk,l1,gba seed=0,1,2"
SERIES = "training/curve"
SHOWN = {"fvu": "FVU", "l0": "L0", "dead": "dead latents"}


def draw(cells: Sequence[Cell]) -> Drawing | None:
    cells = [cell for cell in cells if cell.task == "recovery" and cell.series(SERIES)]
    if not cells:
        return None
    shown = {k: v for k, v in SHOWN.items() if any(k in r for c in cells for r in c.series(SERIES))}
    worlds = make_worlds(cells)
    heights = [max(1.8, 0.35 + 0.15 * len(world.cells)) for world in worlds]
    figure, grid = new_figure(
        *(len(worlds), len(shown)),
        width=PAGE,
        height=sum(heights),
        gridspec_kw={"height_ratios": heights},
    )
    for row, world in zip(grid, worlds, strict=True):
        _row(row, world, shown)
    return Drawing(
        figure=figure,
        title="Training curves.",
        text="Fraction of variance unexplained (FVU), mean number of active latents (L0) and share "
        "of dead latents on training batches, by step. Lines: mean over seeds; bands: lowest to "
        "highest seed.",
        cells=cells,
    )


def _row(row: Sequence[Any], world: World, shown: dict[str, str]) -> None:
    cells = world.cells
    looks = series([cell.method for cell in cells])
    for axes, (column, words) in zip(row, shown.items(), strict=True):
        for cell, (colour, _, style) in zip(cells, looks, strict=True):
            _curve(axes, cell, column, colour, style)
        if column != "dead":
            plain_log(axes, "y")
        axes.set_xlabel("step")
        axes.set_ylabel(words)
        axes.grid()
    title(row[0], world.title)
    handles = [
        handle(name, colour, linestyle=style)
        for name, (colour, _, style) in zip(labels(cells), looks, strict=True)
    ]
    legend_right(row[-1], handles)


def _curve(axes: Any, cell: Cell, column: str, colour: Any, style: Any) -> None:
    import numpy as np

    runs = [run for run in cell.series(SERIES) if {"step", column} <= run.keys()]
    runs = [run for run in runs if run["step"] == runs[0]["step"]]
    if not runs:
        return
    step = runs[0]["step"]
    values = np.array([[np.nan if v is None else v for v in run[column]] for run in runs])
    axes.plot(step, values.mean(0), color=colour, linestyle=style, linewidth=1)
    if len(values) > 1:
        low, high = values.min(0), values.max(0)
        axes.fill_between(step, low, high, color=colour, alpha=0.15, linewidth=0)
