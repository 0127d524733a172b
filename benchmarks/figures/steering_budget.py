"""Steering on a budget: effect against side effect, and which score predicts it."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.drawing import Drawing, bars
from benchmarks.figures.looks import Look, looks
from benchmarks.figures.style import (
    PAGE,
    legend_below,
    line_handle,
    new_figure,
    sae_label,
    where,
    whisker,
)
from benchmarks.results.settings import Setting, variants_of
from benchmarks.results.worlds import make_worlds

NAME = "steering_budget"
COMMAND = "python -m benchmarks.run experiment=steering_budget"
SERIES = "budget/ladder"
PREDICTS = "budget/predicts"
MAX_ROWS = 3


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting
        for setting in settings
        if setting.task == "steering_budget" and setting.series(SERIES)
    ]
    settings = [setting for world in make_worlds(settings) for setting in world.settings]
    if not settings:
        return None
    shown = settings[:MAX_ROWS]
    figure, grid = new_figure(len(shown), 3, width=PAGE, height=0.7 + 1.9 * len(shown))
    abouts = variants_of(shown, (name for setting in shown for name in _names(setting)))
    of = looks(abouts)
    for (left, middle, right), setting in zip(grid, shown, strict=True):
        _effect(left, setting, of)
        _bars(middle, setting, "budget/effect_at_kl", "effect at the KL\nbudget (nats)", of)
        _bars(right, setting, PREDICTS, "rank correlation with\n|effect at the KL budget|", of)
        left.set_title(f"{sae_label(setting)}, {where(setting)}", fontsize=7, loc="left")
    selectors: list[str] = [n for setting in shown for n in setting.series(SERIES)[0]["selector"]]
    drawn = list(dict.fromkeys(selectors))
    legend_below(figure, [line_handle(abouts[name].label, of[name]) for name in drawn], 3)
    budgets = {f"{budget:g}" for setting in shown if (budget := setting.setup.ask.get("kl_budget"))}
    spent = f" of {' or '.join(sorted(budgets))} nats" if budgets else ""
    few = f" {len(shown)} of {len(settings)} settings." if len(shown) < len(settings) else ""
    return Drawing(
        figure=figure,
        title="Steering on a budget.",
        text="Left: rise of the target's log-probability against the KL of the rest while the dose "
        "rises, mean over prompts, first seed, without intervals. Middle: the rise where the KL "
        f"budget{spent} is spent. Right: how well a score of a single latent predicts the size of "
        "that rise (Spearman); random latents of each prompt, steered alone. Middle and right, "
        f"{bars(shown, f'{PREDICTS}/grad_times_act')}.{few}",
        settings=shown,
    )


def _names(setting: Setting) -> list[str]:
    """Selectors of the curves, then those of the bars."""
    names = list(setting.series(SERIES)[0]["selector"])
    return names + [
        n for score in ("budget/effect_at_kl", PREDICTS) for n in _scored(setting, score)
    ]


def _scored(setting: Setting, score: str) -> list[str]:
    """Variants that have a score, in the usual order."""
    names = {
        name.removeprefix(f"{score}/")
        for name in setting.first.scores
        if name.startswith(f"{score}/")
    }
    return list(variants_of([setting], sorted(names)))


def _effect(axes: Any, setting: Setting, of: Mapping[str, Look]) -> None:
    run = setting.series(SERIES)[0]
    for name in dict.fromkeys(run["selector"]):
        rows = [i for i, other in enumerate(run["selector"]) if other == name]
        colour, marker, dash = of[name]
        kl, effect = ([run[what][i] for i in rows] for what in ("kl_rest", "effect"))
        axes.plot(kl, effect, color=colour, marker=marker, linestyle=dash, markersize=3)
    axes.set_xscale("log")
    axes.set_xlabel("KL of the rest (nats)")
    axes.set_ylabel("effect (nats)")
    axes.axhline(0, color="#BBBBBB", linewidth=0.5, zorder=0)
    axes.grid()


def _bars(axes: Any, setting: Setting, score: str, label: str, of: Mapping[str, Look]) -> None:
    """A dot with its interval for each variant, in the usual order, first on top."""
    order = _scored(setting, score)
    for at, name in enumerate(reversed(order)):
        found = setting.estimate(f"{score}/{name}")
        if found is None:
            continue
        colour, marker, _ = of[name]
        axes.plot([found.mean], [at], color=colour, marker=marker, linestyle="")
        whisker(axes, at, found, colour, horizontal=True)
    axes.set_yticks(range(len(order)), [setting.variant(n).label for n in reversed(order)])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlabel(label)
    axes.axvline(0, color="#BBBBBB", linewidth=0.5, zorder=0)
    axes.grid(axis="x")
