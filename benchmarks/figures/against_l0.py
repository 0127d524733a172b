"""Draw scores against l0: a row of panels per world, a line per method."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.figures.drawing import Drawing, bind_pages
from benchmarks.figures.looks import Look, looks
from benchmarks.figures.style import (
    MAX_HEIGHT,
    PAGE,
    batches,
    legend_below,
    line_handles,
    line_style,
    new_figure,
    row_title,
    whisker,
)
from benchmarks.results.settings import methods_of
from benchmarks.results.worlds import World, in_order

L0 = "sparsity/l0"
LEGEND_COLUMNS = 6
LEGEND = 0.6
"""Inches: the height of the legend."""


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
    """Draw one or more pages with a column of panels for each score.

    `scores` gives the label of each score. `finish` sets the axes of a page. `row` is the height
    of a row in inches. `share` goes to matplotlib's `subplots`, `title` and `text` to the caption.
    A line joins the settings of a method by rising l0; each has its intervals in both directions.
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
    return bind_pages(pages)


def _panels(figure: Any, grid: Any, worlds: Sequence[World], scores: Mapping[str, str]) -> None:
    settings = in_order(setting for world in worlds for setting in world.settings)
    abouts = methods_of(settings)
    look_by_method = looks(abouts)
    for row, world in zip(grid, worlds, strict=True):
        for axes, (score, label) in zip(row, scores.items(), strict=True):
            for method in dict.fromkeys(setting.method for setting in world.settings):
                _line(axes, world, method, score, look_by_method[method])
            axes.set_ylabel(label)
            axes.grid()
        row_title(row[0], world.title)
    legend_below(figure, line_handles(abouts, look_by_method), LEGEND_COLUMNS)


def _line(axes: Any, world: World, method: str, score: str, look: Look) -> None:
    points = []
    for setting in (setting for setting in world.settings if setting.method == method):
        x, y = setting.estimate(L0), setting.estimate(score)
        if x is None or y is None:
            continue
        points.append((x.mean, y.mean))
        whisker(axes, x.mean, y, look.colour, horizontal=False, markersize=3)
        whisker(axes, y.mean, x, look.colour, horizontal=True, markersize=3)
    points.sort()
    if points:
        axes.plot(*zip(*points, strict=True), linewidth=0.8, **line_style(look))
