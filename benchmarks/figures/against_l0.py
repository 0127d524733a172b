"""Panels of scores against sparsity: a row per world, a line per method."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.cells import METHODS
from benchmarks.figures.looks import Look, looks
from benchmarks.figures.style import PAGE, legend_below, line_handle, new_figure, title, whisker
from benchmarks.worlds import World, in_order

L0 = "sparsity/l0"
LEGEND_COLUMNS = 6


def draw_against_l0(
    worlds: Sequence[World], scores: Mapping[str, str], *, row_height: float, **options: Any
) -> tuple[Any, Any]:
    """Return the figure and its axes, a column for each score, with its label.

    `row_height` is in inches; `options` go to matplotlib's `subplots`. The settings of a method are
    joined along their sparsity, each with its intervals both ways.
    """
    height = 0.6 + row_height * len(worlds)
    figure, grid = new_figure(len(worlds), len(scores), width=PAGE, height=height, **options)
    cells = in_order(cell for world in worlds for cell in world.cells)
    of = looks(cell.method for cell in cells)
    for row, world in zip(grid, worlds, strict=True):
        for axes, (score, words) in zip(row, scores.items(), strict=True):
            for method in dict.fromkeys(cell.method for cell in world.cells):
                _line(axes, world, method, score, of[method])
            axes.set_ylabel(words)
            axes.grid()
        title(row[0], world.title)
    handles = [line_handle(METHODS.get(method, method), of[method]) for method in of]
    legend_below(figure, handles, LEGEND_COLUMNS)
    return figure, grid


def _line(axes: Any, world: World, method: str, score: str, look: Look) -> None:
    points = []
    for cell in (cell for cell in world.cells if cell.method == method):
        x, y = cell.estimate(L0), cell.estimate(score)
        if x is None or y is None:
            continue
        points.append((x.mean, y.mean))
        whisker(axes, x.mean, y, look.colour, horizontal=False)
        whisker(axes, y.mean, x, look.colour, horizontal=True)
    points.sort()
    if points:
        style = {"color": look.colour, "marker": look.marker, "linestyle": look.dash}
        axes.plot(*zip(*points, strict=True), linewidth=0.8, **style)
