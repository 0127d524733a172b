"""Draw how many latents that a rule ranks first come back in other seeds, on a language model."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.choice import sorted_worlds, with_series
from benchmarks.figures.drawing import Drawing, bind_pages
from benchmarks.figures.looks import GREY, Look, looks
from benchmarks.figures.style import (
    MAX_HEIGHT,
    PAGE,
    batches,
    handle,
    legend_below,
    line_handles,
    line_style,
    new_figure,
    plain_log,
    row_title,
    whisker,
)
from benchmarks.results.settings import Setting, methods_of
from benchmarks.results.worlds import World, in_order

NAME = "consistency"
COMMAND = "python -m benchmarks.run experiment=lm_consistency"
SERIES = "consistency/selection"
MCS = "consistency/mcs_0.9"
ROW, BELOW = 2.0, 0.6
"""Inches: the height of a row of panels, and of what stands below the panels."""
RULES = {
    "act": "maximum activation",
    "z": "Z-score",
    "rate": "rate",
    "mean": "mean activation",
}


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [setting for setting in with_series(settings, "consistency", SERIES) if setting.site]
    if not settings:
        return None
    look_by_method = looks(methods_of(in_order(settings)))
    pages = batches(sorted_worlds(settings), int((MAX_HEIGHT - BELOW) / ROW))
    return bind_pages([_page(worlds, look_by_method) for worlds in pages])


def _page(worlds: Sequence[World], look_by_method: Mapping[str, Look]) -> Drawing:
    height = BELOW + ROW * len(worlds)
    figure, grid = new_figure(
        len(worlds), len(RULES), width=PAGE, height=height, sharex=True, sharey=True
    )
    for row, world in zip(grid, worlds, strict=True):
        for axes, rule in zip(row, RULES, strict=True):
            _panel(axes, world, rule, look_by_method)
        row[0].set_ylabel("share found in another seed")
        row_title(row[0], world.title)
    plain_log(grid[0, 0], "x")  # shared
    for axes, quantity in zip(grid[-1], RULES.values(), strict=True):
        axes.set_xlabel(f"top share by\n{quantity}")
    settings = [setting for world in worlds for setting in world.settings]
    handles = line_handles(methods_of(settings), look_by_method)
    legend_below(figure, [*handles, handle("chance", GREY, linestyle=":")], 7)
    return Drawing(
        figure=figure,
        title="Consistency over seeds, by the rule that selects latents.",
        text="Vertical: the share of the selected latents that match a latent of another seed "
        "with a cosine above 0.9, counted in both directions, mean over pairs of seeds. "
        "Horizontal: the share of latents that is selected, the first ones by the quantity under "
        "the panel (at least one latent; at the right end all; dead latents never). Bars, at 1 %, "
        "5 % and all: 95 % jackknife interval over seeds. Hollow: all latents of an SAE matched "
        "with the other latents of the same SAE; a high value says that latents are crowded, and "
        "then they also match those of another seed. Chance: as many random directions.",
        settings=settings,
    )


def _panel(axes: Any, world: World, rule: str, look_by_method: Mapping[str, Look]) -> None:
    scores = {0.01: f"{MCS}/top_{rule}_1", 0.05: f"{MCS}/top_{rule}_5", 1.0: MCS}
    for setting in world.settings:
        look = look_by_method[setting.method]
        (run, *_) = setting.series(SERIES)
        rows = zip(run["rule"], run["alpha"], run["share"], strict=True)
        points = [(alpha, share) for name, alpha, share in rows if name == rule]
        axes.plot(*zip(*points, strict=True), linewidth=0.8, **line_style(look))
        for alpha, score in scores.items():
            if estimate := setting.estimate(score):
                whisker(axes, alpha, estimate, look.colour, horizontal=False)
        if (self_match := setting.mean(f"{MCS}/own")) is not None:
            axes.plot([1.0], [self_match], markerfacecolor="none", **line_style(look))
    chance = [x for setting in world.settings if (x := setting.mean(f"{MCS}/chance")) is not None]
    if chance:
        axes.axhline(max(chance), color=GREY, linestyle=":", linewidth=0.8)
    axes.set_ylim(-0.03, 1.03)
    axes.grid()
