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
from benchmarks.results.settings import Estimate, Setting

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


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting
        for setting in settings
        if setting.task == "influence" and _cost(setting, TRUTH) is not None
    ]
    shown = one_sae_a_place(settings)
    if not shown:
        return None
    asked = {setting: same_sae(settings, setting) for setting in shown}
    used = [setting for group in asked.values() for setting in group]
    of = family_looks(used, (name for setting in used for name in variants(setting)))
    few = f" {len(used)} of {len(settings)} settings." if len(used) < len(settings) else ""
    more_prompts = " An estimator that an SAE was asked about twice is shown with the more prompts."
    few += more_prompts if len(used) > len(shown) else ""
    pages = batches(shown, PLACES_A_PAGE)
    return book([_page({setting: asked[setting] for setting in page}, of, few) for page in pages])


def _page(asked: Mapping[Setting, Sequence[Setting]], of: Mapping[str, Look], few: str) -> Drawing:
    """A page of SAEs, each with all settings that asked it."""
    scores = [s for s in SCORES if any(points_of(settings, s) for settings in asked.values())]
    used = [setting for group in asked.values() for setting in group]
    figure, stacks = panels(len(asked), [SCORES[score] for score in scores], of, height=1.6)
    _cost_axis(stacks[0][0], max(_cost(setting, TRUTH) or 1 for setting in asked))  # shared
    for row, score in enumerate(scores):
        lows = [
            low(point.found) for settings in asked.values() for point in points_of(settings, score)
        ]
        for (setting, settings), stack in zip(asked.items(), stacks, strict=True):
            stretched_axis(stack[row], min(lows))  # first: places depend on it
            _panel(stack[row], setting, points_of(settings, score), of)
    for setting, stack in zip(asked, stacks, strict=True):
        stack[0].set_title(panel_title(setting), fontsize=7)
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
        settings=used,
    )


def points_of(settings: Sequence[Setting], score: str) -> list[Point]:
    """The estimators of settings of one SAE that have the score, the cheapest first.

    Of two settings that have one estimator the first counts.
    """
    found = {
        name: Point(name, cost, estimate)
        for setting in reversed(settings)
        for name in variants(setting)
        if (cost := _cost(setting, name)) is not None
        and (estimate := setting.estimate(f"{score}/{name}")) is not None
    }
    return sorted(found.values(), key=lambda point: point.cost)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points that no other one equals or beats at the same or a lower cost, by rising cost."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.found.mean)):
        if not best or point.found.mean > best[-1].found.mean:
            best.append(point)
    return best


def _cost(setting: Setting, name: str) -> float | None:
    return setting.mean(f"influence/cost/{name}")


def _panel(axes: Any, setting: Setting, points: Sequence[Point], of: Mapping[str, Look]) -> None:
    from matplotlib.transforms import ScaledTranslation

    best = frontier(points)
    truth = _cost(setting, TRUTH) or 0.0
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
