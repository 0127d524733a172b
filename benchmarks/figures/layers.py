"""Agreement of each estimator with ablation, by depth."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import METHODS, Cell, in_order, labels
from benchmarks.figures.drawing import Drawing, bars
from benchmarks.figures.style import (
    COLUMN,
    PAGE,
    escape,
    handle,
    legend_below,
    look,
    new_figure,
    whisker,
)
from benchmarks.lines import variants
from benchmarks.scores import VARIANTS

NAME = "layers"
COMMAND = "python -m benchmarks.run -m task=influence source=lm_layer source.layer=8,15,22"
SCORE = "influence/spearman"
COLUMNS = 3


def draw(cells: Sequence[Cell]) -> Drawing | None:
    cells = [cell for cell in cells if cell.task == "influence" and cell.depth is not None]
    panels = make_panels(cells)
    if not panels:
        return None
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = COLUMN if columns == 1 else PAGE
    figure, grid = new_figure(
        rows, columns, width=width, height=0.4 + 2.0 * rows, sharex=True, sharey=True
    )
    for axes, (title, members) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, members)
        axes.set_title(escape(title))
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel("Spearman with ablation")
    for axes in grid[-1]:
        axes.set_xlabel("layer")
    names = list(dict.fromkeys(name for cell in cells for name in variants(cell)))
    handles = [handle(VARIANTS.get(n, n), *look(n), linestyle="-") for n in names]
    legend_below(figure, handles, 2 if columns == 1 else 4)
    return Drawing(
        figure=figure,
        title="Agreement with ablation by depth.",
        text="Spearman correlation between each estimate and the true effect of ablation over the "
        f"active latents of a prompt, mean over prompts; {bars(cells, f'{SCORE}/grad_times_act')}.",
        cells=cells,
    )


def make_panels(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """One panel per SAE method, model and corpus; a panel has one cell at each depth."""
    panels: dict[str, list[Cell]] = {}
    order = [cell.method for cell in in_order(cells)]
    for cell in sorted(in_order(cells), key=lambda c: c.depth or 0):
        names = [cell.part("model", "name"), cell.part("corpus", "name")]
        where = ", ".join(str(name) for name in names if name)
        title = f"{METHODS.get(cell.method, cell.method)}, {where}"
        same = panels.setdefault(title, [])
        if any(other.depth == cell.depth for other in same):
            panels.setdefault(f"{labels([cell])[0]}, {where}", []).append(cell)
        else:
            same.append(cell)
    return dict(sorted(panels.items(), key=lambda item: order.index(item[1][0].method)))


def _panel(axes: Any, cells: Sequence[Cell]) -> None:
    names = list(dict.fromkeys(name for cell in cells for name in variants(cell)))
    depths = [cell.depth or 0 for cell in cells]
    step = 0.012 * max(10, max(depths) - min(depths))  # markers at one depth side by side
    for i, name in enumerate(names):
        colour, marker = look(name)
        points = []
        for cell, depth in zip(cells, depths, strict=True):
            found = cell.estimate(f"{SCORE}/{name}")
            if found is None:
                continue
            x = depth + (i - (len(names) - 1) / 2) * step
            points.append((x, found.mean))
            whisker(axes, x, found, colour, horizontal=False)
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, color=colour, linewidth=0.6)
    axes.set_xticks(sorted(set(depths)))
    axes.axhline(0, color="#BBBBBB", linewidth=0.5, zorder=0)
    axes.set_ylim(top=1.04)
    axes.grid(axis="y")
