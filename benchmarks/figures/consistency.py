"""Do the latents that a rule ranks first come back in other seeds, on a language model?"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.drawing import Drawing, book
from benchmarks.figures.looks import GREY, Look, looks
from benchmarks.figures.style import (
    MAX_HEIGHT,
    PAGE,
    batches,
    handle,
    legend_below,
    line_handle,
    new_figure,
    plain_log,
    title,
    whisker,
)
from benchmarks.results.settings import Setting, methods_of
from benchmarks.results.worlds import World, in_order, make_worlds

NAME = "consistency"
COMMAND = "python -m benchmarks.run experiment=lm_consistency"
SERIES = "consistency/selection"
MCS = "consistency/mcs_0.9"
ROW, BELOW = 2.0, 0.6
"""Inches: a row of panels, and what stands below all."""
RULES = {
    "act": "maximum activation",
    "z": "Z-score",
    "rate": "firing rate",
    "mean": "mean activation",
}


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [c for c in settings if c.task == "consistency" and c.site and c.series(SERIES)]
    if not settings:
        return None
    of = looks(methods_of(in_order(settings)))
    pages = batches(make_worlds(settings), int((MAX_HEIGHT - BELOW) / ROW))
    return book([_page(worlds, of) for worlds in pages])


def _page(worlds: Sequence[World], of: Mapping[str, Look]) -> Drawing:
    height = BELOW + ROW * len(worlds)
    figure, grid = new_figure(
        len(worlds), len(RULES), width=PAGE, height=height, sharex=True, sharey=True
    )
    for row, world in zip(grid, worlds, strict=True):
        for axes, rule in zip(row, RULES, strict=True):
            _panel(axes, world, rule, of)
        row[0].set_ylabel("share found in another seed")
        title(row[0], world.title)
    plain_log(grid[0, 0], "x")  # shared
    for axes, words in zip(grid[-1], RULES.values(), strict=True):
        axes.set_xlabel(f"top share by\n{words}")
    settings = [setting for world in worlds for setting in world.settings]
    abouts = methods_of(settings)
    handles = [line_handle(abouts[method].label, of[method]) for method in of if method in abouts]
    legend_below(figure, [*handles, handle("chance", GREY, linestyle=":")], 7)
    return Drawing(
        figure=figure,
        title="Consistency over seeds, by the rule that selects latents.",
        text="Share of the selected latents of one SAE that have a latent of another seed with a "
        "cosine above 0.9, both ways, mean over pairs of seeds, against how many are selected: "
        "the top share of the live latents, at least one, by the rule under the panel; at the "
        "right end all of them. Bars, at 1 %, 5 % and all: 95 % jackknife interval over seeds. "
        "Hollow: all latents of an SAE against itself, none matching itself; a crowded dictionary "
        "is found in any other that crowds likewise. Chance: as many random directions.",
        settings=[setting for world in worlds for setting in world.settings],
    )


def _panel(axes: Any, world: World, rule: str, of: Mapping[str, Look]) -> None:
    scores = {0.01: f"{MCS}/top_{rule}_1", 0.05: f"{MCS}/top_{rule}_5", 1.0: MCS}
    for setting in world.settings:
        colour, marker, dash = of[setting.method]
        (run, *_) = setting.series(SERIES)
        rows = zip(run["rule"], run["alpha"], run["share"], strict=True)
        points = [(alpha, share) for of, alpha, share in rows if of == rule]
        style = {"color": colour, "marker": marker, "linestyle": dash}
        axes.plot(*zip(*points, strict=True), linewidth=0.8, **style)
        for alpha, score in scores.items():
            if found := setting.estimate(score):
                whisker(axes, alpha, found, colour, horizontal=False)
        if (own := setting.mean(f"{MCS}/own")) is not None:
            axes.plot([1.0], [own], color=colour, marker=marker, markerfacecolor="none")
    chance = [x for setting in world.settings if (x := setting.mean(f"{MCS}/chance")) is not None]
    if chance:
        axes.axhline(max(chance), color=GREY, linestyle=":", linewidth=0.8)
    axes.set_ylim(-0.03, 1.03)
    axes.grid()
