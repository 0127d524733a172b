"""Draw how well each estimator agrees with ablation against what it costs."""

from collections.abc import Mapping, Sequence
from math import hypot
from typing import Any, NamedTuple

from benchmarks.figures.choice import panel_heading, pick_sae_per_site, settings_of_sae
from benchmarks.figures.drawing import Drawing, bind_pages, describe_intervals, omitted_note
from benchmarks.figures.estimators import (
    COLUMNS,
    family_legend,
    family_looks,
    lower_end,
    make_panels,
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
MARKER_SIZE = 4.2
"""In typographic points."""
BANDS_PER_PAGE = 2

Studies = Mapping[Setting, Sequence[Setting]]
"""For the SAE of each panel, named by one of its settings, all settings that study it."""


class Point(NamedTuple):
    """One estimator in one panel."""

    name: str
    cost: float
    """Forward passes of the whole model per prompt."""
    quality: Estimate


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting
        for setting in settings
        if setting.task == "influence" and _cost(setting, TRUTH) is not None
    ]
    shown = pick_sae_per_site(settings)
    if not shown:
        return None
    studies = {setting: settings_of_sae(settings, setting) for setting in shown}
    used = [setting for group in studies.values() for setting in group]
    look_by_name = family_looks(used, (name for setting in used for name in variants(setting)))
    note = omitted_note(len(used), len(settings))
    if len(used) > len(shown):
        note += " If two settings of one SAE have an estimator, the one with more prompts counts."
    return bind_pages(
        [
            _page({setting: studies[setting] for setting in page}, look_by_name, note)
            for page in full_pages(shown)
        ]
    )


def full_pages(shown: Sequence[Setting]) -> list[list[Setting]]:
    """Return the SAEs of each page; every band of panels is full, but for the last one."""
    bands = [shown[i : i + COLUMNS] for i in range(0, len(shown), COLUMNS)]
    return [
        [setting for band in page for setting in band] for page in batches(bands, BANDS_PER_PAGE)
    ]


def _page(studies: Studies, look_by_name: Mapping[str, Look], note: str) -> Drawing:
    scores = [s for s in SCORES if any(points_of(settings, s) for settings in studies.values())]
    used = [setting for group in studies.values() for setting in group]
    labels = [SCORES[score] for score in scores]
    figure, stacks = make_panels(len(studies), labels, look_by_name, height=1.6)
    _cost_axis(stacks[0][0], max(_cost(setting, TRUTH) or 1 for setting in studies))  # shared
    for row, score in enumerate(scores):
        points = {setting: points_of(group, score) for setting, group in studies.items()}
        least = min(lower_end(point.quality) for group in points.values() for point in group)
        for setting, stack in zip(studies, stacks, strict=True):
            stretched_axis(stack[row], least)  # before the panel, whose shifts depend on it
            _panel(stack[row], setting, points[setting], look_by_name)
    for setting, stack in zip(studies, stacks, strict=True):
        stack[0].set_title(panel_heading(setting), fontsize=7)
        stack[-1].set_xlabel("cost (forward passes per prompt)")
    extra = [handle("frontier", GREY, linewidth=1), handle("ablation", GREY, linestyle="--")]
    family_legend(figure, used, look_by_name, extra, wide=len(stacks) > 1, linestyle="")
    return Drawing(
        figure=figure,
        title="Quality and cost of the estimators.",
        text="Spearman correlation with the true effect, and share of the true top 10 among an "
        "estimator's first 10 (precision@10), against the cost per prompt in forward passes of the "
        "whole model (a backward pass counts as two). Grey line: the frontier, the best estimator "
        "at or below each cost. It ends at ablation (dashed), which measures the truth by one "
        "rerun per active latent. Hollow markers: another estimator is as good and costs no more. "
        "Markers that would overlap are shifted sideways. Vertical axes are stretched towards 1; "
        "the cost axis is linear up to 1 and logarithmic beyond. "
        f"{describe_intervals(used, 'influence/spearman/grad_times_act').capitalize()}.{note}",
        settings=used,
    )


def points_of(settings: Sequence[Setting], score: str) -> list[Point]:
    """Return the estimators of one SAE that have the score, by rising cost.

    If several settings have the same estimator, the first one counts.
    """
    points = {
        name: Point(name, cost, estimate)
        for setting in reversed(settings)
        for name in variants(setting)
        if (cost := _cost(setting, name)) is not None
        and (estimate := setting.estimate(f"{score}/{name}")) is not None
    }
    return sorted(points.values(), key=lambda point: point.cost)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other equals or beats at the same or lower cost, by rising cost."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.quality.mean)):
        if not best or point.quality.mean > best[-1].quality.mean:
            best.append(point)
    return best


def _cost(setting: Setting, name: str) -> float | None:
    return setting.mean(f"influence/cost/{name}")


def _panel(
    axes: Any, setting: Setting, points: Sequence[Point], look_by_name: Mapping[str, Look]
) -> None:
    from matplotlib.transforms import ScaledTranslation

    best = frontier(points)
    truth = _cost(setting, TRUTH) or 0.0
    line = [*((point.cost, point.quality.mean) for point in best), (truth, 1.0)]
    axes.plot(*zip(*line, strict=True), color=GREY, linewidth=1, drawstyle="steps-post", zorder=1)
    axes.axvline(truth, color=GREY, linestyle="--", linewidth=0.8, zorder=0)
    for point, shift in zip(points, _shifts(axes, points), strict=True):
        look = look_by_name[point.name]
        place = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
        whisker(axes, point.cost, point.quality, look.colour, horizontal=False, transform=place)
        face = look.colour if point in best else "white"
        style = {"color": look.colour, "markerfacecolor": face, "markersize": MARKER_SIZE}
        axes.plot(point.cost, point.quality.mean, look.marker, zorder=3, transform=place, **style)
    axes.grid()


def _shifts(axes: Any, points: Sequence[Point]) -> list[float]:
    """Return how far each marker is moved sideways, in typographic points, so that none overlap."""
    scale = 72 / axes.figure.dpi
    places = [
        axes.transData.transform((point.cost, point.quality.mean)) * scale for point in points
    ]
    steps = [0.0] + [sign * MARKER_SIZE * i for i in range(1, len(points)) for sign in (1, -1)]
    taken: list[tuple[float, float]] = []
    shifts = []
    for x, y in places:
        free = (s for s in steps if all(hypot(x + s - a, y - b) >= MARKER_SIZE for a, b in taken))
        shift = next(free, 0.0)
        taken.append((x + shift, y))
        shifts.append(shift)
    return shifts


def _cost_axis(axes: Any, largest: float) -> None:
    axes.set_xscale("symlog", linthresh=1, linscale=0.6)
    ticks = [tick for tick in (0, 1, 3, 10, 30, 100, 300, 1000, 3000) if tick <= 1.2 * largest]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(-0.2, largest * 1.6)
