"""How many exact ablations, in the order of an estimate, it takes to find the true top 10."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.figures.drawing import Drawing, bars, book
from benchmarks.figures.estimators import (
    family_legend,
    family_looks,
    one_sae_a_place,
    panel_title,
    panels,
)
from benchmarks.figures.looks import GREY, Look
from benchmarks.figures.style import batches, handle, whisker
from benchmarks.results.settings import Setting

NAME = "recall_after_checks"
COMMAND = "python -m benchmarks.run experiment=influence_table"
SERIES = "influence/recall_after_checks"
PLACES_A_PAGE = 9
K = 10
FIRST = f"influence/precision_at_{K}"
"""The recall once the first K are checked; it has an interval."""

SLOT = 0.95
"""From one interval to the next at the left end, as a ratio of checks."""

Curve = list[tuple[int, float]]
"""Checks and recall."""


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [setting for setting in settings if setting.task == "influence" and curves(setting)]
    shown = one_sae_a_place(settings)
    if not shown:
        return None
    of = family_looks(shown, (name for setting in shown for name in curves(setting)))
    few = f" {len(shown)} of {len(settings)} settings." if len(shown) < len(settings) else ""
    return book([_page(page, of, few) for page in batches(shown, PLACES_A_PAGE)])


def _page(shown: Sequence[Setting], of: Mapping[str, Look], few: str) -> Drawing:
    figure, stacks = panels(len(shown), [f"recall of the true top {K}"], of, height=2.1)
    for setting, (axes,) in zip(shown, stacks, strict=True):
        _panel(axes, setting, of)
        axes.set_title(panel_title(setting), fontsize=7)
        axes.set_xlabel("exact checks")
    _checks_axis(stacks[0][0], shown)  # shared
    family_legend(
        figure, shown, of, [handle("a random order", GREY, linestyle=":")], wide=len(stacks) > 1
    )
    return Drawing(
        figure=figure,
        title="Recall after exact checks.",
        text=f"Share of the {K} latents of largest true effect that are known once the first "
        "latents of a ranking have been ablated; mean over prompts, a panel per layer. Up to "
        f"{K} checks it is the precision at {K}, which stands at the left with its interval "
        f"({bars(shown, f'{FIRST}/mean_act')}). Dotted: what a random order finds on average. "
        f"Not drawn: controls, and estimators that spend exact checks of their own.{few}",
        settings=shown,
    )


def curves(setting: Setting) -> dict[str, Curve]:
    """Return the mean recall over seeds from K checks on, by estimator.

    Controls and estimators that spend checks of their own are left out.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for run in setting.series(SERIES):
        rows = zip(run["estimator"], run["k"], run["checks"], run["recall"], strict=True)
        for name, k, checks, recall in rows:
            about = setting.variant(name)
            if k == K <= checks and not (about.spends_checks or about.is_control):
                found.setdefault(name, {}).setdefault(checks, []).append(recall)
    return {
        name: [(checks, fmean(values)) for checks, values in sorted(points.items())]
        for name, points in found.items()
    }


def chance(setting: Setting, checks: int) -> float | None:
    """Expected recall of a random order: the share of a prompt's latents checked, mean over them.

    Of prompts with more than K ablated latents; the others have no recall at K.
    """
    sizes = [
        size
        for run in setting.series("influence/per_prompt")
        for size in run["n_ablated"]
        if size > K
    ]
    return fmean(min(1.0, max(checks, K) / size) for size in sizes) if sizes else None


def _panel(axes: Any, setting: Setting, of: Mapping[str, Look]) -> None:
    found = curves(setting)
    for at, name in enumerate(name for name in of if name in found):
        look = of[name]
        style = {"color": look.colour, "marker": look.marker, "linestyle": look.dash}
        axes.plot(*zip(*found[name], strict=True), linewidth=0.8, markersize=3, **style)
        if start := setting.estimate(f"{FIRST}/{name}"):
            place = K * SLOT ** (at + 1.5)
            whisker(axes, place, start, look.colour, horizontal=False, markersize=3)
            axes.plot(place, start.mean, look.marker, color=look.colour, markersize=3)
    checks = sorted({n for curve in found.values() for n, _ in curve})
    expected = [(n, share) for n in checks if (share := chance(setting, n)) is not None]
    if expected:
        axes.plot(*zip(*expected, strict=True), color=GREY, linestyle=":")
    axes.axvline(K * SLOT**0.7, color="#BBBBBB", linewidth=0.5)
    axes.set_ylim(-0.03, 1.03)
    axes.grid()


def _checks_axis(axes: Any, settings: Sequence[Setting]) -> None:
    most = max(n for setting in settings for curve in curves(setting).values() for n, _ in curve)
    axes.set_xscale("log")
    ticks = [tick for tick in (10, 20, 50, 100, 200, 500) if tick <= 1.05 * most]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
