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
from benchmarks.results.settings import Cell, methods_of
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
    line: Callable[[Any, Cell, dict[str, Any]], bool]
    """Draws a cell's line in a given style; False where the cell has nothing to draw."""
    finish: Callable[[Any, World], None]
    """Sets the axes."""


def not_elsewhere(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of experiments without a figure of their own; all where there are no others."""
    return [c for c in cells if c.setup.experiment not in ELSEWHERE] or list(cells)


def draw_by_world(
    cells: Sequence[Cell],
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
    cells = [cell for cell in cells if cell.task == "recovery" and cell.series(name)]
    worlds = shown_worlds(cells)
    styles = line_styles(worlds)
    if len(styles) < len(cells):
        text += (
            f" {len(styles)} of {len(cells)} settings: neither controls, which train nothing, nor "
            "experiments with a figure of their own, nor a world with one line; of several worlds, "
            "of each method the setting with the most seeds and, of these, of middle sparsity."
        )
    abreast = 2 if len(worlds) == 4 else min(len(worlds), 4 - len(panels))
    entries = len({name for name, _ in styles.values()}) + len(more)
    rows = int((MAX_HEIGHT - legend_height(entries, LEGEND_COLUMNS)) / ROW)
    pages = []
    for page in batches(worlds, rows * abreast):
        figure = _page(page, panels, abreast, styles, more)
        shown = [cell for world in page for cell in world.cells]
        pages.append(Drawing(figure=figure, cells=shown, title=title, text=text))
    return book(pages)


def shown_worlds(cells: Sequence[Cell]) -> list[World]:
    """Worlds with something to compare; of several worlds, one setting of each trained method."""
    cells = not_elsewhere(cells)
    worlds = make_worlds([c for c in cells if f1_l0.is_shown(c)] or cells)
    worlds = [world for world in worlds if len(world.cells) > 1] or worlds
    if len(worlds) < 2:
        return worlds
    return [World(world.title, one_each(world.cells)) for world in worlds]


def one_each(cells: Sequence[Cell]) -> list[Cell]:
    """Of each method the setting with the most seeds and, of these, of middle sparsity."""
    found = []
    for method in dict.fromkeys(cell.method for cell in cells):
        own = [cell for cell in cells if cell.method == method]
        most = max(cell.n_seeds for cell in own)
        own = [cell for cell in own if cell.n_seeds == most]
        own.sort(key=lambda cell: cell.mean("sparsity/l0") or 0.0)
        found.append(own[(len(own) - 1) // 2])
    return found


def line_styles(worlds: Sequence[World]) -> dict[Cell, tuple[str, Look]]:
    """Name and look of each line: of its method, or of its setting where there is one world."""
    cells = in_order(cell for world in worlds for cell in world.cells)
    methods = [cell.method for cell in cells]
    if len(worlds) == 1:
        pairs = zip(labels(cells), series(methods, methods_of(cells)), strict=True)
    else:
        of = looks(methods_of(cells))
        pairs = [(cell.about.label, of[cell.method]) for cell in cells]
    return dict(zip(cells, pairs, strict=True))


def _page(
    worlds: Sequence[World],
    panels: Sequence[Panel],
    abreast: int,
    styles: dict[Cell, tuple[str, Look]],
    more: Sequence[Any],
) -> Any:
    entries = dict(styles[cell] for world in worlds for cell in world.cells)
    rows, columns = -(-len(worlds) // abreast), abreast * len(panels)
    n = LEGEND_COLUMNS if columns > 1 else 2
    row = TALL_ROW if rows <= 2 else ROW
    height = row * rows + legend_height(len(entries) + len(more), n)
    width = COLUMN if columns == 1 else PAGE
    figure, grid = new_figure(rows, columns, width=width, height=height)
    drawn = set()
    places = list(grid.flat)
    for axes, (world, panel) in zip(places, [(w, p) for w in worlds for p in panels], strict=False):
        for cell in world.cells:
            name, look = styles[cell]
            if panel.line(axes, cell, {"color": look.colour, "linestyle": look.dash}):
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
