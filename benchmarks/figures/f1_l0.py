"""F1 and MCC against sparsity on worlds of trees, the axes of published SynthSAEBench tables."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import METHODS, Cell
from benchmarks.figures.drawing import Drawing, bars
from benchmarks.figures.style import (
    PAGE,
    handle,
    legend_below,
    look,
    new_figure,
    plain_log,
    title,
    whisker,
)
from benchmarks.scores import SCORES
from benchmarks.worlds import World, in_order, make_worlds

NAME = "f1_l0"
COMMAND = "python -m benchmarks.run experiment=f1_against_l0"
SHOWN = ("detection/f1", "latents/f1", "recovery/mcc")
EXPERIMENTS = ("known_features", "f1_against_l0")
NOT_SHOWN = ("random", "pca", "ica", "untrained", "ceiling_linear")
LEAST = 3
"""Fewest sparsities that make a curve worth a panel."""


def draw(cells: Sequence[Cell]) -> Drawing | None:
    cells = [
        cell
        for cell in cells
        if cell.task == "recovery"
        and cell.part("experiment") in EXPERIMENTS
        and cell.method not in NOT_SHOWN
        and cell.mean("latents/f1") is not None
    ]
    worlds = [world for world in _worlds(cells) if _n_sparsities(world) >= LEAST]
    if not worlds:
        return None
    shown = [cell for world in worlds for cell in world.cells]
    figure, grid = new_figure(
        *(len(worlds), len(SHOWN)), width=PAGE, height=0.6 + 2.2 * len(worlds), sharex="row"
    )
    for row, world in zip(grid, worlds, strict=True):
        for axes, score in zip(row, SHOWN, strict=True):
            _panel(axes, world, score)
        plain_log(row[0], "x")  # shared
        title(row[0], world.title)
    methods = list(dict.fromkeys(cell.method for cell in in_order(shown)))
    handles = [handle(METHODS.get(m, m), *look(m), linestyle="-") for m in methods]
    legend_below(figure, handles, 5)
    return Drawing(
        figure=figure,
        title="Known features found, against sparsity.",
        text="Against the mean number of open latents: F1 over features (each feature's own "
        "latent), F1 over latents (each latent's nearest feature, the definition of the published "
        "SynthSAEBench table) and MCC; higher is better. A method's settings are joined along "
        f"their sparsity. Markers: mean over seeds; {bars(shown, SHOWN[0])}.",
        cells=shown,
    )


def _worlds(cells: Sequence[Cell]) -> list[World]:
    """Worlds whose SAEs are equally wide and equally trained; only those share a curve."""
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        size = cell.part("trainer", "d_sae")
        key = f"{size if cell.method != 'ceiling' else ''} {cell.part('fit')}"
        alike.setdefault(key, []).append(cell)
    return [world for group in alike.values() for world in make_worlds(group)]


def _n_sparsities(world: World) -> int:
    methods = {cell.method for cell in world.cells}
    return max(sum(cell.method == method for cell in world.cells) for method in methods)


def _panel(axes: Any, world: World, score: str) -> None:
    for method in dict.fromkeys(cell.method for cell in world.cells):
        colour, marker = look(method)
        points = []
        for cell in (c for c in world.cells if c.method == method):
            x, y = cell.estimate("sparsity/l0"), cell.estimate(score)
            if x is None or y is None:
                continue
            points.append((x.mean, y.mean))
            whisker(axes, x.mean, y, colour, horizontal=False)
            whisker(axes, y.mean, x, colour, horizontal=True)
        points.sort()
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linewidth=0.8)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("open latents per row")
    axes.set_ylabel(SCORES[score].header)
    axes.grid(axis="y")
