"""How the recovery rate falls as the cosine that counts as recovered rises."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import Cell
from benchmarks.figures.drawing import Drawing
from benchmarks.figures.style import GREY, distinct, handle, legend_right, line_figure, title
from benchmarks.naming import labels
from benchmarks.worlds import World, make_worlds

NAME = "frr_curve"
COMMAND = "python -m benchmarks.run -m trainer=topk,l1,gba seed=0,1,2"
SERIES = "recovery/frr_curve"


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
        title="Recovery rate by threshold.",
        text="Share of true features that some latent matches with a cosine above the threshold. "
        "Lines: mean over seeds; bands: lowest to highest seed; dotted grey: chance, random "
        "directions in place of the latents.",
        cells=cells,
    )


def _panel(axes: Any, world: World) -> None:
    cells = world.cells
    import numpy as np

    handles = []
    for cell, name, (colour, style) in zip(cells, labels(cells), distinct(cells), strict=True):
        runs = [run for run in cell.series(SERIES) if {"tau", "frr"} <= run.keys()]
        runs = [run for run in runs if run["tau"] == runs[0]["tau"]]
        if not runs:
            continue
        tau, frr = np.array(runs[0]["tau"]), np.array([run["frr"] for run in runs])
        axes.plot(tau, frr.mean(0), color=colour, linestyle=style)
        if len(frr) > 1:
            axes.fill_between(tau, frr.min(0), frr.max(0), color=colour, alpha=0.15, linewidth=0)
        handles.append(handle(name, colour, linestyle=style))
        if "chance" in runs[0]:
            axes.plot(tau, runs[0]["chance"], color=GREY, linestyle=":", linewidth=1, zorder=1)
    handles.append(handle("chance", GREY, linestyle=":"))
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("feature recovery rate")
    axes.set_xlabel("cosine that counts as recovered")
    title(axes, world.title)
    axes.grid()
    legend_right(axes, handles)
