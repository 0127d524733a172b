"""Draw steering on a budget: effect against side effect, and which score predicts the effect."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.choice import panel_headings, sort_by_world, with_series
from benchmarks.figures.drawing import Drawing, describe_intervals, omitted_note
from benchmarks.figures.looks import GREY, Look, looks
from benchmarks.figures.style import (
    PAGE,
    handle,
    legend_below,
    line_handle,
    line_style,
    mark,
    new_figure,
    zero_line,
)
from benchmarks.results.settings import Setting, variants_of

NAME = "steering_budget"
COMMAND = "python -m benchmarks.run experiment=steering_budget"
SERIES = "budget/ladder"
EFFECT = "budget/effect_at_kl"
PREDICTS = "budget/predicts"
LADDER = ("kl_rest", "effect", "effect_low", "effect_high")
"""Columns of the series that are drawn."""
X_LABELS = (
    "KL of the rest (nats)",
    "effect at the KL\nbudget (nats)",
    "rank correlation with\n|effect at the KL budget|",
)
MAX_ROWS = 3


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = sort_by_world(with_series(settings, "steering_budget", SERIES))
    if not settings:
        return None
    shown = settings[:MAX_ROWS]
    height = 0.7 + 1.9 * len(shown)
    figure, grid = new_figure(len(shown), 3, width=PAGE, height=height, sharex="col")
    abouts = variants_of(shown, (name for setting in shown for name in _names(setting)))
    look_by_name = looks(abouts)
    headings = panel_headings(shown)
    for (ladder, effect, predicts), setting, heading in zip(grid, shown, headings, strict=True):
        _ladder(ladder, setting, look_by_name)
        _rows(effect, setting, EFFECT, look_by_name)
        _rows(predicts, setting, PREDICTS, look_by_name)
        ladder.set_title(heading.replace("\n", ", "), fontsize=7, loc="left")
    for axes, label in zip(grid[-1], X_LABELS, strict=True):
        axes.set_xlabel(label)
    selectors = dict.fromkeys(
        name for setting in shown for name in setting.series(SERIES)[0]["selector"]
    )
    handles = [line_handle(abouts[name].label, look_by_name[name]) for name in selectors]
    handles.append(handle("KL budget", GREY, linestyle="--", linewidth=0.8))
    legend_below(figure, handles, 4)
    budgets = {f"{budget:g}" for setting in shown if (budget := setting.setup.ask.get("kl_budget"))}
    budget_size = f" of {' or '.join(sorted(budgets))} nats" if budgets else ""
    return Drawing(
        figure=figure,
        title="Steering on a budget.",
        text="Left: change of the target's log-probability against the KL of the rest, for rising "
        "doses; mean over prompts, first seed; bands: 95 % bootstrap over prompts; the "
        "vertical axis is linear between -1 and 1 and logarithmic beyond. Middle: the change at "
        f"the dose that uses up the KL budget{budget_size}. Right: how well a score of a single "
        "latent predicts the size of that change (Spearman), over random latents of each prompt "
        "that are steered alone. Middle and right, "
        f"{describe_intervals(shown, f'{PREDICTS}/grad_times_act')}."
        f"{omitted_note(len(shown), len(settings))}",
        settings=shown,
    )


def _names(setting: Setting) -> list[str]:
    """Return the selectors of the curves, then those of the rows."""
    names = list(setting.series(SERIES)[0]["selector"])
    return names + [name for score in (EFFECT, PREDICTS) for name in _scored(setting, score)]


def _scored(setting: Setting, score: str) -> list[str]:
    """Return the selectors that have a score, in the order of tables."""
    names = {
        name.removeprefix(f"{score}/")
        for name in setting.first.scores
        if name.startswith(f"{score}/")
    }
    return list(variants_of([setting], sorted(names)))


def _ladder(axes: Any, setting: Setting, look_by_name: Mapping[str, Look]) -> None:
    run = setting.series(SERIES)[0]
    for name in reversed(variants_of([setting], run["selector"])):  # controls at the back
        rows = [i for i, other in enumerate(run["selector"]) if other == name]
        kl, effect, low, high = ([run[column][i] for i in rows] for column in LADDER)
        axes.plot(kl, effect, markersize=3, **line_style(look_by_name[name]))
        if None not in (*low, *high):
            band = {"color": look_by_name[name].colour, "alpha": 0.12, "linewidth": 0}
            axes.fill_between(kl, low, high, **band)
    if budget := setting.setup.ask.get("kl_budget"):
        axes.axvline(budget, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_yticks(
        [-10, -1, -0.5, 0, 0.5, 1], ["\u221210", "\u22121", "\u22120.5", "0", "0.5", "1"]
    )
    axes.set_ylim(min(-1.0, 1.2 * min(run["effect"])), max(1.0, 1.2 * max(run["effect"])))
    axes.minorticks_off()
    axes.set_ylabel("effect (nats)")
    zero_line(axes)
    axes.grid()


def _rows(axes: Any, setting: Setting, score: str, look_by_name: Mapping[str, Look]) -> None:
    """Draw a score with its interval for each selector, in the order of tables, first on top."""
    names = _scored(setting, score)
    for at, name in enumerate(reversed(names)):
        estimate = setting.estimate(f"{score}/{name}")
        if estimate is not None:
            mark(axes, at, estimate, look_by_name[name], horizontal=True)
    axes.set_yticks(range(len(names)), [setting.variant(n).label for n in reversed(names)])
    axes.set_ylim(-0.6, len(names) - 0.4)
    zero_line(axes, vertical=True)
    axes.grid(axis="x")
