"""Which method finds the true features: FRR and MCC per method, with chance."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.by_world import not_elsewhere
from benchmarks.figures.drawing import Drawing, bars, book
from benchmarks.figures.looks import GREY, Look, looks
from benchmarks.figures.style import (
    MAX_HEIGHT,
    PAGE,
    batches,
    handle,
    legend_below,
    new_figure,
    row_labels,
    seed_dots,
    title,
    whisker,
)
from benchmarks.results.settings import Cell, methods_of
from benchmarks.results.worlds import World, make_worlds

NAME = "recovery"
COMMAND = "python -m benchmarks.run -m trainer=topk,l1,gba seed=0,1,2"
ROW, HEAD, LEGEND = 0.155, 0.7, 0.35
"""Inches: a row, what a world takes beside its rows, and the legend."""
SHOWN = ("recovery/frr_0.8", "recovery/frr_0.9", "recovery/mcc")


def draw(cells: Sequence[Cell]) -> Drawing | None:
    found = [cell for cell in cells if cell.task == "recovery" and cell.mean("recovery/mcc")]
    cells = not_elsewhere(found)
    of = looks(methods_of(cells))
    few = f" {len(cells)} of {len(found)} settings; the other experiments have their own figures."
    few = few if len(cells) < len(found) else ""
    return book([_page(worlds, of, few) for worlds in pages(make_worlds(cells))])


def pages(worlds: Sequence[World]) -> list[list[World]]:
    """Worlds of each page, in order; the rows of one that is taller than a page are spread."""
    found: list[list[World]] = []
    room = 0.0
    for world in worlds:
        for rows in batches(world.cells, int((MAX_HEIGHT - LEGEND - HEAD) / ROW)):
            height = HEAD + ROW * len(rows)
            if height > room:
                found.append([])
                room = MAX_HEIGHT - LEGEND
            found[-1].append(World(world.title, list(rows)))
            room -= height
    return found


def _page(worlds: Sequence[World], of: Mapping[str, Look], few: str) -> Drawing:
    cells = [cell for world in worlds for cell in world.cells]
    heights = [len(world.cells) for world in worlds]
    figure, grid = new_figure(
        *(len(worlds), len(SHOWN)),
        width=PAGE,
        height=LEGEND + sum(HEAD + ROW * height for height in heights),
        gridspec_kw={"height_ratios": [height + 0.5 for height in heights]},
        sharey="row",
    )
    for row, world in zip(grid, worlds, strict=True):
        for axes, score in zip(row, SHOWN, strict=True):
            _panel(axes, world.cells, score, of)
            axes.set_xlabel(cells[0].score(score).header)
        row[0].set_yticks(range(len(world.cells)), row_labels(world.cells))
        row[0].invert_yaxis()
        title(row[0], world.title)
    several = any(cell.n_seeds > 1 for cell in cells)
    handles = [handle("mean over seeds" if several else "one seed", "#000000", "o")]
    if several:
        handles.append(handle("one seed", "#555555", "o", markersize=2, alpha=0.6))
    handles.append(
        handle("chance: random directions", GREY, "|", markersize=8, markeredgewidth=1.5)
    )
    legend_below(figure, handles, 3)
    return Drawing(
        figure=figure,
        title="Recovery of the true features.",
        text="Feature recovery rate at a cosine of 0.8 and 0.9, and mean matched cosine (MCC); "
        f"higher is better. Markers: mean over seeds; {bars(cells, SHOWN[0], dots=True)}; "
        f"grey strokes: chance, the same score of random directions.{few}",
        cells=cells,
    )


def _panel(axes: Any, cells: Sequence[Cell], score: str, of: Mapping[str, Look]) -> None:
    for at, cell in enumerate(cells):
        found = cell.estimate(score)
        if found is None:
            continue
        colour, marker, _ = of[cell.method]
        whisker(axes, at, found, colour, horizontal=True)
        axes.plot(found.mean, at, marker, color=colour, zorder=3)
        seed_dots(axes, at, cell, score, horizontal=True)
        chance = cell.mean(f"{score}/chance")
        if chance is not None:
            axes.plot(chance, at, "|", color=GREY, markersize=9, markeredgewidth=1.5, zorder=1)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.6, len(cells) - 0.4)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
