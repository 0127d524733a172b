"""What agreement with ablation costs: fidelity of each estimator against its price."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import Cell
from benchmarks.figures.drawing import Drawing, bars
from benchmarks.figures.style import (
    COLUMN,
    GREY,
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
from benchmarks.worlds import World, make_worlds

NAME = "cost"
COMMAND = "python -m benchmarks.run task=influence source=lm_layer trainer=topk"
COLUMNS = 3


def draw(cells: Sequence[Cell]) -> Drawing | None:
    cells = [
        cell
        for cell in cells
        if cell.task == "influence" and cell.mean("influence/cost/ablation") is not None
    ]
    if not cells:
        return None
    worlds = make_worlds(cells)
    columns = min(COLUMNS, len(worlds))
    rows = -(-len(worlds) // columns)
    width = COLUMN if columns == 1 else PAGE
    figure, grid = new_figure(rows, columns, width=width, height=0.4 + 2.0 * rows, sharey=True)
    for axes, world in zip(grid.flat, worlds, strict=False):
        _panel(axes, world)
    for axes in list(grid.flat)[len(worlds) :]:
        axes.set_visible(False)
    grid[0, 0].set_ylim(top=1.05)  # shared; after all is drawn, or the bottom would be fixed
    for row in grid:
        row[0].set_ylabel("Spearman with ablation")
    names = list(dict.fromkeys(name for cell in cells for name in variants(cell)))
    handles = [handle(VARIANTS.get(n, n), *look(n)) for n in names]
    handles.append(handle("ablation, the truth itself", GREY, linestyle="--"))
    legend_below(figure, handles, 2 if columns == 1 else 5)
    return Drawing(
        figure=figure,
        title="Cost and fidelity of the estimators.",
        text="Spearman correlation with the true effect against the cost of a prompt, in forward "
        "passes of the whole model (a backward pass counts as two); one marker per SAE. Dashed: "
        "the cost of the true effects by ablation, one re-run per active latent, a line per SAE. "
        f"{bars(cells, 'influence/spearman/grad_times_act').capitalize()}.",
        cells=cells,
    )


def _panel(axes: Any, world: World) -> None:
    cells = world.cells
    for cell in cells:
        for name in variants(cell):
            cost = cell.mean(f"influence/cost/{name}")
            found = cell.estimate(f"influence/spearman/{name}")
            if cost is None or found is None:
                continue
            colour, marker = look(name)
            whisker(axes, cost, found, colour, horizontal=False)
            axes.plot(cost, found.mean, marker, color=colour, alpha=0.8)
        axes.axvline(
            cell.mean("influence/cost/ablation") or 0, color=GREY, linestyle="--", linewidth=0.8
        )
    axes.axhline(0, color="#BBBBBB", linewidth=0.5, zorder=0)
    axes.axhline(1, color=GREY, linewidth=0.5, linestyle=":", zorder=0)
    axes.set_xscale("symlog", linthresh=1, linscale=0.6)
    top = max(cell.mean("influence/cost/ablation") or 1 for cell in cells)
    ticks = [tick for tick in (0, 1, 10, 100, 1000, 10_000) if tick <= 1.2 * top]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(-0.2, top * 1.6)
    axes.set_xlabel("forward-equivalents per prompt")
    axes.set_title(escape(world.title))
    axes.grid()
