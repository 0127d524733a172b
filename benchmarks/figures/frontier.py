"""Reconstruction against sparsity on the layers of a language model."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import METHODS, Cell
from benchmarks.figures.drawing import Drawing, bars
from benchmarks.figures.style import (
    COLUMN,
    PAGE,
    escape,
    handle,
    legend_below,
    look,
    new_figure,
    plain_log,
    whisker,
)
from benchmarks.worlds import World, in_order, make_worlds

NAME = "frontier"
COMMAND = "python -m benchmarks.run -m source=lm_layer trainer=topk,l1,gba seed=0,1,2"
COLUMNS = 3


def draw(cells: Sequence[Cell]) -> Drawing | None:
    cells = [
        cell
        for cell in cells
        if cell.task == "recovery" and cell.site and cell.mean("reconstruction/fvu") is not None
    ]
    if not cells:
        return None
    worlds = make_worlds(cells)
    columns = min(COLUMNS, len(worlds))
    rows = -(-len(worlds) // columns)
    width = COLUMN if columns == 1 else PAGE
    figure, grid = new_figure(
        rows, columns, width=width, height=0.5 + 2.1 * rows, sharex=True, sharey=True
    )
    for axes, world in zip(grid.flat, worlds, strict=False):
        _panel(axes, world)
    for axes in list(grid.flat)[len(worlds) :]:
        axes.set_visible(False)
    spread = [x for cell in cells if (x := cell.mean("sparsity/l0"))]
    if spread and max(spread) > 4 * min(spread):
        plain_log(grid[0, 0], "x")  # shared
    for row in grid:
        row[0].set_ylabel("fraction of variance unexplained")
    methods = list(dict.fromkeys(cell.method for cell in in_order(cells)))
    handles = [handle(METHODS.get(m, m), *look(m), linestyle="-") for m in methods]
    legend_below(figure, handles, 4)
    return Drawing(
        figure=figure,
        title="Reconstruction against sparsity.",
        text="Fraction of variance unexplained (lower is better) against the mean number of "
        "active latents, on held-out tokens without outliers; one marker per setting of a method, "
        "joined along the method's sparsity. Markers: mean over seeds; "
        f"{bars(cells, 'reconstruction/fvu')}.",
        cells=cells,
    )


def _panel(axes: Any, world: World) -> None:
    cells = world.cells
    for method in dict.fromkeys(cell.method for cell in cells):
        colour, marker = look(method)
        points = []
        for cell in (c for c in cells if c.method == method):
            x, y = cell.estimate("sparsity/l0"), cell.estimate("reconstruction/fvu")
            if x is None or y is None:
                continue
            points.append((x.mean, y.mean))
            whisker(axes, x.mean, y, colour, horizontal=False)
            whisker(axes, y.mean, x, colour, horizontal=True)
        points.sort()
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linewidth=0.8)
    axes.set_xlabel("L0, active latents per token")
    axes.set_title(escape(world.title))
    axes.grid()
