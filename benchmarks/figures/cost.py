"""What agreement with ablation costs: fidelity of each estimator against its price."""

from collections.abc import Mapping, Sequence
from math import hypot
from typing import Any, NamedTuple

from benchmarks.figures.drawing import Drawing, bars, book
from benchmarks.figures.estimators import (
    family_legend,
    family_looks,
    low,
    one_sae_a_place,
    panel_title,
    panels,
    same_sae,
    stretched_axis,
)
from benchmarks.figures.looks import GREY, Look
from benchmarks.figures.style import batches, handle, whisker
from benchmarks.results.rows import variants
from benchmarks.results.settings import Cell, Estimate

NAME = "cost"
COMMAND = "python -m benchmarks.run experiment=influence_table"
SCORES = {
    "influence/spearman": "Spearman",
    "influence/precision_at_10": "precision@10",
}
TRUTH = "ablation"
MARK = 4.2
"""Size of a marker, in typographic points."""
PLACES_A_PAGE = 6


class Point(NamedTuple):
    name: str
    cost: float
    found: Estimate


def draw(cells: Sequence[Cell]) -> Drawing | None:
    cells = [cell for cell in cells if cell.task == "influence" and _cost(cell, TRUTH) is not None]
    shown = one_sae_a_place(cells)
    if not shown:
        return None
    asked = {cell: same_sae(cells, cell) for cell in shown}
    used = [cell for group in asked.values() for cell in group]
    of = family_looks(used, (name for cell in used for name in variants(cell)))
    few = f" {len(used)} of {len(cells)} settings." if len(used) < len(cells) else ""
    more_prompts = " An estimator that an SAE was asked about twice is shown with the more prompts."
    few += more_prompts if len(used) > len(shown) else ""
    pages = batches(shown, PLACES_A_PAGE)
    return book([_page({cell: asked[cell] for cell in page}, of, few) for page in pages])


def _page(asked: Mapping[Cell, Sequence[Cell]], of: Mapping[str, Look], few: str) -> Drawing:
    """A page of SAEs, each with all cells that asked it."""
    scores = [s for s in SCORES if any(points_of(cells, s) for cells in asked.values())]
    used = [cell for group in asked.values() for cell in group]
    figure, stacks = panels(len(asked), [SCORES[score] for score in scores], of, height=1.6)
    _cost_axis(stacks[0][0], max(_cost(cell, TRUTH) or 1 for cell in asked))  # shared
    for row, score in enumerate(scores):
        lows = [low(point.found) for cells in asked.values() for point in points_of(cells, score)]
        for (cell, cells), stack in zip(asked.items(), stacks, strict=True):
            stretched_axis(stack[row], min(lows))  # first: places depend on it
            _panel(stack[row], cell, points_of(cells, score), of)
    for cell, stack in zip(asked, stacks, strict=True):
        stack[0].set_title(panel_title(cell), fontsize=7)
        stack[-1].set_xlabel("forward-equivalents per prompt")
    more = [handle("frontier", GREY, linewidth=1), handle("ablation", GREY, linestyle="--")]
    family_legend(figure, used, of, more, wide=len(stacks) > 1, linestyle="")
    return Drawing(
        figure=figure,
        title="Cost and fidelity of the estimators.",
        text="Spearman correlation with the true effect, and share of the true top 10 among an "
        "estimator's first 10, against the cost of a prompt, in forward passes of the whole model "
        "(a backward pass counts as two); a panel per layer. Grey line: the frontier, the best "
        "that a cost buys, which ends at ablation, the truth itself, by one re-run per active "
        "latent (dashed); hollow: something no dearer is as good. Markers that would cover one "
        "another stand side by side. Vertical axes are stretched "
        "towards 1; costs are linear up to 1. "
        f"{bars(used, 'influence/spearman/grad_times_act').capitalize()}.{few}",
        cells=used,
    )


def points_of(cells: Sequence[Cell], score: str) -> list[Point]:
    """The estimators of cells of one SAE that have the score, the cheapest first.

    Of two cells that have one estimator the first counts.
    """
    found = {
        name: Point(name, cost, estimate)
        for cell in reversed(cells)
        for name in variants(cell)
        if (cost := _cost(cell, name)) is not None
        and (estimate := cell.estimate(f"{score}/{name}")) is not None
    }
    return sorted(found.values(), key=lambda point: point.cost)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points that no other one equals or beats at the same or a lower cost, by rising cost."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.found.mean)):
        if not best or point.found.mean > best[-1].found.mean:
            best.append(point)
    return best


def _cost(cell: Cell, name: str) -> float | None:
    return cell.mean(f"influence/cost/{name}")


def _panel(axes: Any, cell: Cell, points: Sequence[Point], of: Mapping[str, Look]) -> None:
    from matplotlib.transforms import ScaledTranslation

    best = frontier(points)
    truth = _cost(cell, TRUTH) or 0.0
    line = [*((point.cost, point.found.mean) for point in best), (truth, 1.0)]
    axes.plot(*zip(*line, strict=True), color=GREY, linewidth=1, drawstyle="steps-post", zorder=1)
    axes.axvline(truth, color=GREY, linestyle="--", linewidth=0.8, zorder=0)
    for point, shift in zip(points, _shifts(axes, points), strict=True):
        look = of[point.name]
        to = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
        whisker(axes, point.cost, point.found, look.colour, horizontal=False, transform=to)
        face = look.colour if point in best else "white"
        style = {"color": look.colour, "markerfacecolor": face, "markersize": MARK}
        axes.plot(point.cost, point.found.mean, look.marker, zorder=3, transform=to, **style)
    axes.grid()


def _shifts(axes: Any, points: Sequence[Point]) -> list[float]:
    """How far each marker goes aside, in typographic points, so that none covers another."""
    scale = 72 / axes.figure.dpi
    places = [axes.transData.transform((point.cost, point.found.mean)) * scale for point in points]
    steps = [0.0] + [sign * MARK * i for i in range(1, len(points)) for sign in (1, -1)]
    taken: list[tuple[float, float]] = []
    shifts = []
    for x, y in places:
        free = (s for s in steps if all(hypot(x + s - a, y - b) >= MARK for a, b in taken))
        shift = next(free, 0.0)
        taken.append((x + shift, y))
        shifts.append(shift)
    return shifts


def _cost_axis(axes: Any, most: float) -> None:
    axes.set_xscale("symlog", linthresh=1, linscale=0.6)
    ticks = [tick for tick in (0, 1, 3, 10, 30, 100, 300, 1000, 3000) if tick <= 1.2 * most]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(-0.2, most * 1.6)
