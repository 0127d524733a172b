"""Draw a series of recovery: panels by world, a line per method, one legend."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import f1_l0, gba_toy, resonance, swept
from benchmarks.figures.choice import sorted_worlds, with_series
from benchmarks.figures.drawing import Drawing, bind_pages
from benchmarks.figures.looks import Look, looks, series
from benchmarks.figures.style import (
    COLUMN,
    MAX_HEIGHT,
    PAGE,
    batches,
    handle,
    hide,
    legend_below,
    legend_height,
    new_figure,
    row_title,
)
from benchmarks.results import growth
from benchmarks.results.labels import labels
from benchmarks.results.settings import Setting, methods_of
from benchmarks.results.worlds import World, in_order

WITH_OWN_FIGURE = {
    *(*swept.NAMES, resonance.NAME, gba_toy.NAME, f1_l0.EXPERIMENT),
    growth.EXPERIMENT,
}
"""Experiments that have a figure of their own."""
ROW, TALL_ROW = 1.35, 1.9
"""Inches: the height of a row of panels; if there are at most two rows, of a tall one."""
LEGEND_COLUMNS = 5


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What is drawn of each world in one panel."""

    x: str
    """Label of the horizontal axis."""
    y: str
    """Label of the vertical axis."""
    line: Callable[[Any, Setting, dict[str, Any]], bool]
    """Draws a setting's line in a given style; returns False if the setting has no such line."""
    finish: Callable[[Any, World], None]
    """Sets the axes of a world."""


def without_own_figure(settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings whose experiment has no figure of its own, or all if there are none."""
    return [
        setting for setting in settings if setting.setup.experiment not in WITH_OWN_FIGURE
    ] or list(settings)


def draw_by_world(
    settings: Sequence[Setting],
    name: str,
    panels: Sequence[Panel],
    extra_handles: Sequence[Any],
    *,
    title: str,
    text: str,
) -> Drawing | None:
    """Draw one or more pages of the worlds that have the series `name`, panels side by side.

    `extra_handles` stand at the end of the legend. `title` and `text` go to the caption.
    """
    settings = with_series(settings, "recovery", name)
    worlds = choose_worlds(settings)
    styles = line_styles(worlds)
    if len(styles) < len(settings):
        text += (
            f" {len(styles)} of {len(settings)} settings are drawn. Left out are controls, which "
            "are not trained, experiments with a figure of their own, and worlds with a single "
            "line. If there are several worlds, each method has one line per world: of its "
            "settings with the most seeds, the one of middle l0."
        )
    abreast = 2 if len(worlds) == 4 else min(len(worlds), 4 - len(panels))
    entries = len({name for name, _ in styles.values()}) + len(extra_handles)
    rows = int((MAX_HEIGHT - legend_height(entries, LEGEND_COLUMNS)) / ROW)
    pages = []
    for page in batches(worlds, rows * abreast):
        figure = _page(page, panels, abreast, styles, extra_handles)
        shown = [setting for world in page for setting in world.settings]
        pages.append(Drawing(figure=figure, settings=shown, title=title, text=text))
    return bind_pages(pages)


def choose_worlds(settings: Sequence[Setting]) -> list[World]:
    """Return the worlds that compare settings; if they are several, with one setting per method."""
    settings = without_own_figure(settings)
    worlds = sorted_worlds([s for s in settings if f1_l0.is_shown(s)] or settings)
    worlds = [world for world in worlds if len(world.settings) > 1] or worlds
    if len(worlds) < 2:
        return worlds
    return [World(world.title, pick_per_method(world.settings)) for world in worlds]


def pick_per_method(settings: Sequence[Setting]) -> list[Setting]:
    """Return one setting of each method: of those with the most seeds, the one of middle l0."""
    picked = []
    for method in dict.fromkeys(setting.method for setting in settings):
        candidates = [setting for setting in settings if setting.method == method]
        n_seeds = max(setting.n_seeds for setting in candidates)
        candidates = [setting for setting in candidates if setting.n_seeds == n_seeds]
        candidates.sort(key=lambda setting: setting.mean("sparsity/l0") or 0.0)
        picked.append(candidates[(len(candidates) - 1) // 2])
    return picked


def line_styles(worlds: Sequence[World]) -> dict[Setting, tuple[str, Look]]:
    """Return name and look of each line: those of its method or, in one world, of its setting."""
    settings = in_order(setting for world in worlds for setting in world.settings)
    methods = [setting.method for setting in settings]
    if len(worlds) == 1:
        pairs = zip(labels(settings), series(methods, methods_of(settings)), strict=True)
    else:
        look_by_method = looks(methods_of(settings))
        pairs = [(setting.about.label, look_by_method[setting.method]) for setting in settings]
    return dict(zip(settings, pairs, strict=True))


def _page(
    worlds: Sequence[World],
    panels: Sequence[Panel],
    abreast: int,
    styles: dict[Setting, tuple[str, Look]],
    extra_handles: Sequence[Any],
) -> Any:
    """Return the figure of a page with the panels of so many worlds `abreast`."""
    entries = dict(styles[setting] for world in worlds for setting in world.settings)
    rows, columns = -(-len(worlds) // abreast), abreast * len(panels)
    n = LEGEND_COLUMNS if columns > 1 else 2
    row = TALL_ROW if rows <= 2 else ROW
    height = row * rows + legend_height(len(entries) + len(extra_handles), n)
    width = COLUMN if columns == 1 else PAGE
    figure, grid = new_figure(rows, columns, width=width, height=height)
    visible_names = set()
    places = list(grid.flat)
    for axes, (world, panel) in zip(places, [(w, p) for w in worlds for p in panels], strict=False):
        for setting in world.settings:
            name, look = styles[setting]
            if panel.line(axes, setting, {"color": look.colour, "linestyle": look.dash}):
                visible_names.add(name)
        panel.finish(axes, world)
        axes.grid()
        if len(panels) > 1 or places.index(axes) % columns == 0:
            axes.set_ylabel(panel.y)
        if panel is panels[0]:
            row_title(axes, world.title, abreast)
    used = len(worlds) * len(panels)
    for axes in places[max(0, used - columns) : used]:
        axes.set_xlabel(panels[places.index(axes) % len(panels)].x)  # the lowest of each column
    hide(places[used:])
    handles = [
        handle(k, v.colour, linestyle=v.dash) for k, v in entries.items() if k in visible_names
    ]
    legend_below(figure, [*handles, *extra_handles], n)
    return figure
