"""Figures of a series of recovery: small multiples by world, a line per method, one legend."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import f1_l0, gba_toy, resonance, style, swept
from benchmarks.figures.drawing import Drawing, book
from benchmarks.figures.looks import Look, looks, series
from benchmarks.figures.style import (
    COLUMN,
    MAX_HEIGHT,
    PAGE,
    batches,
    handle,
    legend_below,
    legend_height,
    new_figure,
)
from benchmarks.results.labels import labels
from benchmarks.results.settings import Setting, methods_of
from benchmarks.results.worlds import World, in_order, make_worlds

ELSEWHERE = {*swept.NAMES, resonance.NAME, gba_toy.NAME, *f1_l0.OWN}
"""Experiments that have a figure of their own."""
ROW, TALL_ROW = 1.35, 1.9
"""Inches: the height of a row of panels, of many and of at most two."""
LEGEND_COLUMNS = 5


@dataclass(frozen=True, kw_only=True)
class Panel:
    x: str
    y: str
    line: Callable[[Any, Setting, dict[str, Any]], bool]
    """Draws a setting's line in a given style; False where the setting has nothing to draw."""
    finish: Callable[[Any, World], None]
    """Sets the axes."""


def not_elsewhere(settings: Sequence[Setting]) -> list[Setting]:
    """Cells of experiments without a figure of their own; all where there are no others."""
    return [c for c in settings if c.setup.experiment not in ELSEWHERE] or list(settings)


def draw_by_world(
    settings: Sequence[Setting],
    name: str,
    panels: Sequence[Panel],
    more: Sequence[Any],
    *,
    title: str,
    text: str,
) -> Drawing | None:
    """A page or more of the worlds that have the series, each with all panels side by side.

    `more` are further entries of the legend.
    """
    settings = [
        setting for setting in settings if setting.task == "recovery" and setting.series(name)
    ]
    worlds = shown_worlds(settings)
    styles = line_styles(worlds)
    if len(styles) < len(settings):
        text += (
            f" {len(styles)} of {len(settings)} settings: neither controls, which train nothing, "
            "nor experiments with a figure of their own, nor a world with one line; of several "
            "worlds, of each method the setting with the most seeds and, of these, of middle "
            "sparsity."
        )
    abreast = 2 if len(worlds) == 4 else min(len(worlds), 4 - len(panels))
    entries = len({name for name, _ in styles.values()}) + len(more)
    rows = int((MAX_HEIGHT - legend_height(entries, LEGEND_COLUMNS)) / ROW)
    pages = []
    for page in batches(worlds, rows * abreast):
        figure = _page(page, panels, abreast, styles, more)
        shown = [setting for world in page for setting in world.settings]
        pages.append(Drawing(figure=figure, settings=shown, title=title, text=text))
    return book(pages)


def shown_worlds(settings: Sequence[Setting]) -> list[World]:
    """Worlds with something to compare; of several worlds, one setting of each trained method."""
    settings = not_elsewhere(settings)
    worlds = make_worlds([c for c in settings if f1_l0.is_shown(c)] or settings)
    worlds = [world for world in worlds if len(world.settings) > 1] or worlds
    if len(worlds) < 2:
        return worlds
    return [World(world.title, one_each(world.settings)) for world in worlds]


def one_each(settings: Sequence[Setting]) -> list[Setting]:
    """Of each method the setting with the most seeds and, of these, of middle sparsity."""
    found = []
    for method in dict.fromkeys(setting.method for setting in settings):
        own = [setting for setting in settings if setting.method == method]
        most = max(setting.n_seeds for setting in own)
        own = [setting for setting in own if setting.n_seeds == most]
        own.sort(key=lambda setting: setting.mean("sparsity/l0") or 0.0)
        found.append(own[(len(own) - 1) // 2])
    return found


def line_styles(worlds: Sequence[World]) -> dict[Setting, tuple[str, Look]]:
    """Name and look of each line: of its method, or of its setting where there is one world."""
    settings = in_order(setting for world in worlds for setting in world.settings)
    methods = [setting.method for setting in settings]
    if len(worlds) == 1:
        pairs = zip(labels(settings), series(methods, methods_of(settings)), strict=True)
    else:
        of = looks(methods_of(settings))
        pairs = [(setting.about.label, of[setting.method]) for setting in settings]
    return dict(zip(settings, pairs, strict=True))


def _page(
    worlds: Sequence[World],
    panels: Sequence[Panel],
    abreast: int,
    styles: dict[Setting, tuple[str, Look]],
    more: Sequence[Any],
) -> Any:
    entries = dict(styles[setting] for world in worlds for setting in world.settings)
    rows, columns = -(-len(worlds) // abreast), abreast * len(panels)
    n = LEGEND_COLUMNS if columns > 1 else 2
    row = TALL_ROW if rows <= 2 else ROW
    height = row * rows + legend_height(len(entries) + len(more), n)
    width = COLUMN if columns == 1 else PAGE
    figure, grid = new_figure(rows, columns, width=width, height=height)
    drawn = set()
    places = list(grid.flat)
    for axes, (world, panel) in zip(places, [(w, p) for w in worlds for p in panels], strict=False):
        for setting in world.settings:
            name, look = styles[setting]
            if panel.line(axes, setting, {"color": look.colour, "linestyle": look.dash}):
                drawn.add(name)
        panel.finish(axes, world)
        axes.grid()
        if len(panels) > 1 or places.index(axes) % columns == 0:
            axes.set_ylabel(panel.y)
        if panel is panels[0]:
            style.title(axes, world.title, abreast)
    used = len(worlds) * len(panels)
    for axes in places[max(0, used - columns) : used]:
        axes.set_xlabel(panels[places.index(axes) % len(panels)].x)  # the lowest of each column
    for axes in places[used:]:
        axes.set_visible(False)
    handles = [handle(k, v.colour, linestyle=v.dash) for k, v in entries.items() if k in drawn]
    legend_below(figure, [*handles, *more], n)
    return figure
