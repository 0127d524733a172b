"""Draw steering on a budget: effect against side effect, and which score predicts the effect."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.choice import sort_by_world, with_series
from benchmarks.figures.drawing import Drawing, describe_intervals, omitted_note
from benchmarks.figures.looks import Look, looks
from benchmarks.figures.style import (
    PAGE,
    legend_below,
    line_handle,
    line_style,
    mark,
    new_figure,
    sae_label,
    shown_world,
    zero_line,
)
from benchmarks.results.settings import Setting, variants_of

NAME = "steering_budget"
COMMAND = "python -m benchmarks.run experiment=steering_budget"
SERIES = "budget/ladder"
EFFECT = "budget/effect_at_kl"
PREDICTS = "budget/predicts"
MAX_ROWS = 3


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = sort_by_world(with_series(settings, "steering_budget", SERIES))
    if not settings:
        return None
    shown = settings[:MAX_ROWS]
    figure, grid = new_figure(len(shown), 3, width=PAGE, height=0.7 + 1.9 * len(shown))
    abouts = variants_of(shown, (name for setting in shown for name in _names(setting)))
    look_by_name = looks(abouts)
    for (ladder, effect, predicts), setting in zip(grid, shown, strict=True):
        _ladder(ladder, setting, look_by_name)
        _rows(effect, setting, EFFECT, look_by_name)
        _rows(predicts, setting, PREDICTS, look_by_name)
        ladder.set_title(f"{sae_label(setting)}, {shown_world(setting)}", fontsize=7, loc="left")
        effect.set_xlabel("effect at the KL\nbudget (nats)")
        predicts.set_xlabel("rank correlation with\n|effect at the KL budget|")
    selectors = dict.fromkeys(
        name for setting in shown for name in setting.series(SERIES)[0]["selector"]
    )
    handles = [line_handle(abouts[name].label, look_by_name[name]) for name in selectors]
    legend_below(figure, handles, 3)
    budgets = {f"{budget:g}" for setting in shown if (budget := setting.setup.ask.get("kl_budget"))}
    budget_size = f" of {' or '.join(sorted(budgets))} nats" if budgets else ""
    return Drawing(
        figure=figure,
        title="Steering on a budget.",
        text="Left: change of the target's log-probability against the KL of the rest, for rising "
        "doses; mean over prompts, first seed, without intervals. Middle: the change at the dose "
        f"that uses up the KL budget{budget_size}. Right: how well a score of a single latent "
        "predicts the size of that change (Spearman), over random latents of each prompt that "
        "are steered alone. Middle and right, "
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
    for name in dict.fromkeys(run["selector"]):
        rows = [i for i, other in enumerate(run["selector"]) if other == name]
        kl, effect = ([run[column][i] for i in rows] for column in ("kl_rest", "effect"))
        axes.plot(kl, effect, markersize=3, **line_style(look_by_name[name]))
    axes.set_xscale("log")
    axes.set_xlabel("KL of the rest (nats)")
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
