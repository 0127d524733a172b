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
from benchmarks.results.settings import Setting, methods_of
from benchmarks.results.worlds import World, make_worlds

NAME = "recovery"
COMMAND = "python -m benchmarks.run -m trainer=topk,l1,gba seed=0,1,2"
ROW, HEAD, LEGEND = 0.155, 0.7, 0.35
"""Inches: a row, what a world takes beside its rows, and the legend."""
SHOWN = ("recovery/frr_0.8", "recovery/frr_0.9", "recovery/mcc")


def draw(settings: Sequence[Setting]) -> Drawing | None:
    found = [
        setting
        for setting in settings
        if setting.task == "recovery" and setting.mean("recovery/mcc")
    ]
    settings = not_elsewhere(found)
    of = looks(methods_of(settings))
    few = (
        f" {len(settings)} of {len(found)} settings; the other experiments have their own figures."
    )
    few = few if len(settings) < len(found) else ""
    return book([_page(worlds, of, few) for worlds in pages(make_worlds(settings))])


def pages(worlds: Sequence[World]) -> list[list[World]]:
    """Worlds of each page, in order; the rows of one that is taller than a page are spread."""
    found: list[list[World]] = []
    room = 0.0
    for world in worlds:
        for rows in batches(world.settings, int((MAX_HEIGHT - LEGEND - HEAD) / ROW)):
            height = HEAD + ROW * len(rows)
            if height > room:
                found.append([])
                room = MAX_HEIGHT - LEGEND
            found[-1].append(World(world.title, list(rows)))
            room -= height
    return found


def _page(worlds: Sequence[World], of: Mapping[str, Look], few: str) -> Drawing:
    settings = [setting for world in worlds for setting in world.settings]
    heights = [len(world.settings) for world in worlds]
    figure, grid = new_figure(
        *(len(worlds), len(SHOWN)),
        width=PAGE,
        height=LEGEND + sum(HEAD + ROW * height for height in heights),
        gridspec_kw={"height_ratios": [height + 0.5 for height in heights]},
        sharey="row",
    )
    for row, world in zip(grid, worlds, strict=True):
        for axes, score in zip(row, SHOWN, strict=True):
            _panel(axes, world.settings, score, of)
            axes.set_xlabel(settings[0].score(score).header)
        row[0].set_yticks(range(len(world.settings)), row_labels(world.settings))
        row[0].invert_yaxis()
        title(row[0], world.title)
    several = any(setting.n_seeds > 1 for setting in settings)
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
        f"higher is better. Markers: mean over seeds; {bars(settings, SHOWN[0], dots=True)}; "
        f"grey strokes: chance, the same score of random directions.{few}",
        settings=settings,
    )


def _panel(axes: Any, settings: Sequence[Setting], score: str, of: Mapping[str, Look]) -> None:
    for at, setting in enumerate(settings):
        found = setting.estimate(score)
        if found is None:
            continue
        colour, marker, _ = of[setting.method]
        whisker(axes, at, found, colour, horizontal=True)
        axes.plot(found.mean, at, marker, color=colour, zorder=3)
        seed_dots(axes, at, setting, score, horizontal=True)
        chance = setting.mean(f"{score}/chance")
        if chance is not None:
            axes.plot(chance, at, "|", color=GREY, markersize=9, markeredgewidth=1.5, zorder=1)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.6, len(settings) - 0.4)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
