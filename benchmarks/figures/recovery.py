"""Draw how well each method recovers the true features: FRR and MCC, with chance."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.by_world import without_own_figure
from benchmarks.figures.drawing import Drawing, bind_pages, describe_intervals, omitted_note
from benchmarks.figures.looks import GREY, Look, looks
from benchmarks.figures.style import (
    MAX_HEIGHT,
    PAGE,
    batches,
    handle,
    legend_below,
    mark,
    new_figure,
    row_labels,
    row_title,
    seed_dots,
    set_rows,
)
from benchmarks.results.settings import Setting, methods_of
from benchmarks.results.worlds import World, make_worlds

NAME = "recovery"
COMMAND = "python -m benchmarks.run -m trainer=topk,l1,gba seed=0,1,2"
ROW, HEAD, LEGEND = 0.155, 0.7, 0.35
"""Inches: the height of a row, of a world without its rows, and of the legend."""
SHOWN = ("recovery/frr_0.8", "recovery/frr_0.9", "recovery/mcc")


def draw(settings: Sequence[Setting]) -> Drawing | None:
    scored = [
        setting
        for setting in settings
        if setting.task == "recovery" and setting.mean("recovery/mcc")
    ]
    settings = without_own_figure(scored)
    look_by_method = looks(methods_of(settings))
    note = omitted_note(len(settings), len(scored))
    note += " The other experiments have their own figures." if note else ""
    pages = split_pages(make_worlds(settings))
    return bind_pages([_page(worlds, look_by_method, note) for worlds in pages])


def split_pages(worlds: Sequence[World]) -> list[list[World]]:
    """Return the worlds of each page, in order; a world taller than a page goes on on the next."""
    pages: list[list[World]] = []
    room = 0.0
    for world in worlds:
        for rows in batches(world.settings, int((MAX_HEIGHT - LEGEND - HEAD) / ROW)):
            height = HEAD + ROW * len(rows)
            if height > room:
                pages.append([])
                room = MAX_HEIGHT - LEGEND
            pages[-1].append(World(world.title, list(rows)))
            room -= height
    return pages


def _page(worlds: Sequence[World], look_by_method: Mapping[str, Look], note: str) -> Drawing:
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
            _panel(axes, world.settings, score, look_by_method)
            axes.set_xlabel(settings[0].score(score).header)
        row[0].set_yticks(range(len(world.settings)), row_labels(world.settings))
        row[0].invert_yaxis()
        row_title(row[0], world.title)
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
        "higher is better. Markers: mean over seeds; "
        f"{describe_intervals(settings, SHOWN[0], dots=True)}; grey strokes: chance, the same "
        f"score of random directions.{note}",
        settings=settings,
    )


def _panel(
    axes: Any, settings: Sequence[Setting], score: str, look_by_method: Mapping[str, Look]
) -> None:
    for at, setting in enumerate(settings):
        estimate = setting.estimate(score)
        if estimate is None:
            continue
        mark(axes, at, estimate, look_by_method[setting.method], horizontal=True)
        seed_dots(axes, at, setting, score)
        chance = setting.mean(f"{score}/chance")
        if chance is not None:
            axes.plot(chance, at, "|", color=GREY, markersize=9, markeredgewidth=1.5, zorder=1)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.6, len(settings) - 0.4)
    set_rows(axes)
