"""Draw how many checks, in the order of an estimate, it takes to find the true top 10."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.figures.choice import panel_heading, pick_sae_per_site
from benchmarks.figures.drawing import Drawing, bind_pages, describe_intervals, omitted_note
from benchmarks.figures.estimators import family_legend, family_looks, make_panels
from benchmarks.figures.looks import GREY, Look
from benchmarks.figures.style import PALE, batches, handle, line_style, whisker
from benchmarks.results.settings import Setting

NAME = "recall_after_checks"
COMMAND = "python -m benchmarks.run experiment=influence_table"
SERIES = "influence/recall_after_checks"
SAES_PER_PAGE = 9
K = 10
FIRST = f"influence/precision_at_{K}"
"""The recall after K checks; unlike the series it has an interval."""

SLOT = 0.95
"""Distance between two intervals at the left end, as a ratio of checks."""

Curve = list[tuple[int, float]]
"""Number of checks and recall."""


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [setting for setting in settings if setting.task == "influence" and curves(setting)]
    shown = pick_sae_per_site(settings)
    if not shown:
        return None
    look_by_name = family_looks(shown, (name for setting in shown for name in curves(setting)))
    note = omitted_note(len(shown), len(settings))
    pages = batches(shown, SAES_PER_PAGE)
    return bind_pages([_page(page, look_by_name, note) for page in pages])


def _page(shown: Sequence[Setting], look_by_name: Mapping[str, Look], note: str) -> Drawing:
    labels = [f"recall of the true top {K}"]
    figure, stacks = make_panels(len(shown), labels, look_by_name, height=2.1)
    for setting, (axes,) in zip(shown, stacks, strict=True):
        _panel(axes, setting, look_by_name)
        axes.set_title(panel_heading(setting), fontsize=7)
        axes.set_xlabel("exact checks")
    _checks_axis(stacks[0][0], shown)  # shared
    chance_handle = handle("a random order", GREY, linestyle=":")
    family_legend(figure, shown, look_by_name, [chance_handle], wide=len(stacks) > 1)
    return Drawing(
        figure=figure,
        title="Recall after exact checks.",
        text=f"Share of the {K} latents of largest true effect that have been ablated when the "
        "first latents of a ranking are checked, against the number of checks; mean over prompts. "
        f"At {K} checks it is the precision@{K}, which also stands at the left with its interval "
        f"({describe_intervals(shown, f'{FIRST}/mean_act')}). Dotted: the mean of a random order. "
        f"Not drawn: controls, and estimators that spend checks of their own.{note}",
        settings=shown,
    )


def curves(setting: Setting) -> dict[str, Curve]:
    """Return the mean recall over seeds from K checks on, by estimator.

    Controls and estimators that spend checks of their own are left out.
    """
    recalls: dict[str, dict[int, list[float]]] = {}
    for run in setting.series(SERIES):
        rows = zip(run["estimator"], run["k"], run["checks"], run["recall"], strict=True)
        for name, k, checks, recall in rows:
            about = setting.variant(name)
            if k == K <= checks and not (about.spends_checks or about.is_control):
                recalls.setdefault(name, {}).setdefault(checks, []).append(recall)
    return {
        name: [(checks, fmean(values)) for checks, values in sorted(points.items())]
        for name, points in recalls.items()
    }


def chance(setting: Setting, checks: int) -> float | None:
    """Return the expected recall of a random order: the mean share of latents that is checked.

    The mean is over prompts with more than K ablated latents; others have no recall.
    """
    sizes = [
        size
        for run in setting.series("influence/per_prompt")
        for size in run["n_ablated"]
        if size > K
    ]
    return fmean(min(1.0, max(checks, K) / size) for size in sizes) if sizes else None


def _panel(axes: Any, setting: Setting, look_by_name: Mapping[str, Look]) -> None:
    curve_by_name = curves(setting)
    for at, name in enumerate(name for name in look_by_name if name in curve_by_name):
        look, points = look_by_name[name], zip(*curve_by_name[name], strict=True)
        axes.plot(*points, linewidth=0.8, markersize=3, **line_style(look))
        if start := setting.estimate(f"{FIRST}/{name}"):
            place = K * SLOT ** (at + 1.5)
            whisker(axes, place, start, look.colour, horizontal=False, markersize=3)
            axes.plot(place, start.mean, look.marker, color=look.colour, markersize=3)
    checks = sorted({n for curve in curve_by_name.values() for n, _ in curve})
    expected = [(n, share) for n in checks if (share := chance(setting, n)) is not None]
    if expected:
        axes.plot(*zip(*expected, strict=True), color=GREY, linestyle=":")
    axes.axvline(K * SLOT**0.7, color=PALE, linewidth=0.5)
    note = {"xycoords": ("data", "axes fraction"), "ha": "right", "fontsize": 6, "color": GREY}
    axes.annotate(f"at {K}", (K * SLOT**1.2, 0.02), **note)
    axes.set_ylim(-0.03, 1.03)
    axes.grid()


def _checks_axis(axes: Any, settings: Sequence[Setting]) -> None:
    largest = max(n for setting in settings for curve in curves(setting).values() for n, _ in curve)
    axes.set_xscale("log")
    ticks = [tick for tick in (10, 20, 50, 100, 200, 500) if tick <= 1.05 * largest]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
