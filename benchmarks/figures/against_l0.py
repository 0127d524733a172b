"""Panels of scores against sparsity: a row per world, a line per method."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.figures import style
from benchmarks.figures.drawing import Drawing, book
from benchmarks.figures.looks import Look, looks
from benchmarks.figures.style import (
    MAX_HEIGHT,
    PAGE,
    batches,
    legend_below,
    line_handle,
    new_figure,
    whisker,
)
from benchmarks.results.settings import methods_of
from benchmarks.results.worlds import World, in_order

L0 = "sparsity/l0"
LEGEND_COLUMNS = 6
LEGEND = 0.6
"""Inches."""


def draw_against_l0(
    worlds: Sequence[World],
    scores: Mapping[str, str],
    finish: Callable[[Any], None],
    *,
    row: float,
    share: dict[str, Any],
    title: str,
    text: str,
) -> Drawing | None:
    """A page or more with a column for each score, with its label.

    `finish` sets the axes of a page, `row` is a row's height in inches, `share` goes to
    matplotlib's `subplots`, the rest to the caption. The settings of a method are joined along
    their sparsity, each with its intervals both ways.
    """
    pages = []
    for page in batches(worlds, int((MAX_HEIGHT - LEGEND) / row)):
        figure, grid = new_figure(
            *(len(page), len(scores)), width=PAGE, height=LEGEND + row * len(page), **share
        )
        _panels(figure, grid, page, scores)
        finish(grid)
        settings = [setting for world in page for setting in world.settings]
        pages.append(Drawing(figure=figure, settings=settings, title=title, text=text))
    return book(pages)


def _panels(figure: Any, grid: Any, worlds: Sequence[World], scores: Mapping[str, str]) -> None:
    settings = in_order(setting for world in worlds for setting in world.settings)
    of = looks(abouts := methods_of(settings))
    for row, world in zip(grid, worlds, strict=True):
        for axes, (score, words) in zip(row, scores.items(), strict=True):
            for method in dict.fromkeys(setting.method for setting in world.settings):
                _line(axes, world, method, score, of[method])
            axes.set_ylabel(words)
            axes.grid()
        style.title(row[0], world.title)
    handles = [line_handle(abouts[method].label, of[method]) for method in of]
    legend_below(figure, handles, LEGEND_COLUMNS)


def _line(axes: Any, world: World, method: str, score: str, look: Look) -> None:
    points = []
    for setting in (setting for setting in world.settings if setting.method == method):
        x, y = setting.estimate(L0), setting.estimate(score)
        if x is None or y is None:
            continue
        points.append((x.mean, y.mean))
        for at, found, horizontal in ((x.mean, y, False), (y.mean, x, True)):
            whisker(axes, at, found, look.colour, horizontal=horizontal, markersize=3)
    points.sort()
    if points:
        of = {"color": look.colour, "marker": look.marker, "linestyle": look.dash}
        axes.plot(*zip(*points, strict=True), linewidth=0.8, **of)
