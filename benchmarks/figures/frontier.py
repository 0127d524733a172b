"""What a method loses at which sparsity, on the layers of a language model."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import METHODS, Cell
from benchmarks.figures.drawing import Drawing, bars
from benchmarks.figures.style import (
    PAGE,
    handle,
    legend_below,
    look,
    new_figure,
    plain_log,
    title,
    whisker,
)
from benchmarks.worlds import World, in_order, make_worlds

NAME = "frontier"
COMMAND = "python -m benchmarks.run experiment=lm_frontier"
PANELS = {
    "reconstruction/fvu": "fraction of variance unexplained",
    "lm/ce_recovered": "cross-entropy recovered",
    "sparsity/dead": "share of dead latents",
}
L0 = "sparsity/l0"


def draw(cells: Sequence[Cell]) -> Drawing | None:
    cells = [c for c in cells if c.task == "recovery" and c.site and c.mean(L0) is not None]
    if not cells:
        return None
    worlds = make_worlds(cells)
    worlds = [world for world in worlds if _is_swept(world)] or worlds
    cells = [cell for world in worlds for cell in world.cells]
    height = 0.6 + 2.0 * len(worlds)
    figure, grid = new_figure(
        len(worlds), len(PANELS), width=PAGE, height=height, sharex=True, sharey="col"
    )
    for row, world in zip(grid, worlds, strict=True):
        for axes, (score, words) in zip(row, PANELS.items(), strict=True):
            _panel(axes, world, score)
            axes.set_ylabel(words)
        title(row[0], world.title)
    spread = [x for cell in cells if (x := cell.mean(L0))]
    if spread and max(spread) > 4 * min(spread):
        plain_log(grid[0, 0], "x")  # shared
    for axes in grid[-1]:
        axes.set_xlabel("L0, active latents per token")
    methods = list(dict.fromkeys(cell.method for cell in in_order(cells)))
    legend_below(figure, [handle(METHODS.get(m, m), *look(m), linestyle="-") for m in methods], 6)
    return Drawing(
        figure=figure,
        title="Reconstruction against sparsity.",
        text="Fraction of variance unexplained (lower is better), cross-entropy recovered (1: that "
        "of the untouched model, 0: that with zeros in place of the activation) and share of "
        "latents that never fired, against the mean number of active latents, on held-out tokens "
        "without outliers; one marker per setting of a method, joined along its sparsity. "
        f"Markers: mean over seeds; {bars(cells, 'reconstruction/fvu')}.",
        cells=cells,
    )


def _is_swept(world: World) -> bool:
    """True where some method has two settings, that is, where there is a line to draw."""
    methods = [cell.method for cell in world.cells]
    return len(set(methods)) < len(methods)


def _panel(axes: Any, world: World, score: str) -> None:
    for method in dict.fromkeys(cell.method for cell in world.cells):
        colour, marker = look(method)
        points = []
        for cell in (c for c in world.cells if c.method == method):
            x, y = cell.estimate(L0), cell.estimate(score)
            if x is None or y is None:
                continue
            points.append((x.mean, y.mean))
            whisker(axes, x.mean, y, colour, horizontal=False)
            whisker(axes, y.mean, x, colour, horizontal=True)
        points.sort()
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linewidth=0.8)
    axes.grid()
