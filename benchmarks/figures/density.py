"""How often latents fire: the histogram of log firing rates."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import Cell
from benchmarks.figures.drawing import Drawing
from benchmarks.figures.style import distinct, handle, legend_right, line_figure, title
from benchmarks.naming import labels
from benchmarks.worlds import World, make_worlds

NAME = "density"
COMMAND = "python -m benchmarks.run -m trainer=topk,l1,gba seed=0,1,2"
SERIES = "sparsity/density"


def draw(cells: Sequence[Cell]) -> Drawing | None:
    cells = [cell for cell in cells if cell.task == "recovery" and cell.series(SERIES)]
    if not cells:
        return None
    worlds = make_worlds(cells)
    figure, grid = line_figure(worlds)
    for axes, world in zip(grid[:, 0], worlds, strict=True):
        _panel(axes, world)
    return Drawing(
        figure=figure,
        title="Firing rates of latents.",
        text="Share of the latents that fired at all, by the share of held-out activations on "
        "which they fire; all seeds pooled. Latents that never fired are not in it (see the "
        "score `sparsity/dead`).",
        cells=cells,
    )


def _panel(axes: Any, world: World) -> None:
    cells = world.cells
    handles, used = [], []
    for cell, name, (colour, style) in zip(cells, labels(cells), distinct(cells), strict=True):
        counts: dict[float, float] = {}
        for run in cell.series(SERIES):
            for rate, count in zip(run["log10_rate"], run["count"], strict=True):
                counts[rate] = counts.get(rate, 0) + count
        total = sum(counts.values())
        if not total:
            continue
        rates = sorted(counts)
        used += [rate for rate in rates if counts[rate]]
        shares = [counts[rate] / total for rate in rates]
        axes.plot(rates, shares, color=colour, linestyle=style, drawstyle="steps-mid")
        handles.append(handle(name, colour, linestyle=style))
    axes.set_ylim(bottom=0)
    axes.set_xlim(min(used, default=-1) - 0.5, min(0.1, max(used, default=-1) + 0.5))
    axes.set_ylabel("share of firing latents")
    axes.set_xlabel("firing rate")
    axes.xaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
    title(axes, world.title)
    axes.grid()
    legend_right(axes, handles)
