"""Figures with a panel per world and a line per setting, named at the panel's right."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.cells import Cell
from benchmarks.figures.looks import series
from benchmarks.figures.style import COLUMN, handle, legend_right, new_figure, title
from benchmarks.naming import labels
from benchmarks.worlds import World, make_worlds

Draw = Callable[[Any, Cell, dict[str, Any]], bool]
"""Draws a cell's line in a given style; False where the cell has nothing to draw."""
Finish = Callable[[Any, World], list[Any]]
"""Sets the axes of a panel, and returns further entries of its legend."""


def lines_by_world(
    cells: Sequence[Cell], name: str, line: Draw, finish: Finish
) -> tuple[Any, list[Cell]] | None:
    """Return the figure of a series of recovery and the cells in it; None where none has it."""
    cells = [cell for cell in cells if cell.task == "recovery" and cell.series(name)]
    if not cells:
        return None
    worlds = make_worlds(cells)
    heights = [max(1.6, 0.5 + 0.15 * len(world.cells)) for world in worlds]
    figure, grid = new_figure(
        *(len(worlds), 1),
        width=1.6 * COLUMN,
        height=sum(heights),
        gridspec_kw={"height_ratios": heights},
    )
    for axes, world in zip(grid[:, 0], worlds, strict=True):
        handles = _lines(axes, world.cells, line) + finish(axes, world)
        title(axes, world.title)
        axes.grid()
        legend_right(axes, handles)
    return figure, cells


def _lines(axes: Any, cells: Sequence[Cell], line: Draw) -> list[Any]:
    handles = []
    looks = series([cell.method for cell in cells])
    for cell, name, look in zip(cells, labels(cells), looks, strict=True):
        if line(axes, cell, {"color": look.colour, "linestyle": look.dash}):
            handles.append(handle(name, look.colour, linestyle=look.dash))
    return handles
