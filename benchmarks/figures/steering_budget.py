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
from benchmarks.results.settings import Cell, variants_of
from benchmarks.results.worlds import make_worlds

NAME = "steering_budget"
COMMAND = "python -m benchmarks.run experiment=steering_budget"
SERIES = "budget/ladder"
PREDICTS = "budget/predicts"
MAX_ROWS = 3


def draw(cells: Sequence[Cell]) -> Drawing | None:
    cells = [cell for cell in cells if cell.task == "steering_budget" and cell.series(SERIES)]
    cells = [cell for world in make_worlds(cells) for cell in world.cells]
    if not cells:
        return None
    shown = cells[:MAX_ROWS]
    figure, grid = new_figure(len(shown), 3, width=PAGE, height=0.7 + 1.9 * len(shown))
    abouts = variants_of(shown, (name for cell in shown for name in _names(cell)))
    of = looks(abouts)
    for (left, middle, right), cell in zip(grid, shown, strict=True):
        _effect(left, cell, of)
        _bars(middle, cell, "budget/effect_at_kl", "effect at the KL\nbudget (nats)", of)
        _bars(right, cell, PREDICTS, "rank correlation with\n|effect at the KL budget|", of)
        left.set_title(f"{sae_label(cell)}, {where(cell)}", fontsize=7, loc="left")
    selectors: list[str] = [n for cell in shown for n in cell.series(SERIES)[0]["selector"]]
    drawn = list(dict.fromkeys(selectors))
    legend_below(figure, [line_handle(abouts[name].label, of[name]) for name in drawn], 3)
    budgets = {f"{budget:g}" for cell in shown if (budget := cell.setup.ask.get("kl_budget"))}
    spent = f" of {' or '.join(sorted(budgets))} nats" if budgets else ""
    few = f" {len(shown)} of {len(cells)} cells." if len(shown) < len(cells) else ""
    return Drawing(
        figure=figure,
        title="Steering on a budget.",
        text="Left: rise of the target's log-probability against the KL of the rest while the dose "
        "rises, mean over prompts, first seed, without intervals. Middle: the rise where the KL "
        f"budget{spent} is spent. Right: how well a score of a single latent predicts the size of "
        "that rise (Spearman); random latents of each prompt, steered alone. Middle and right, "
        f"{bars(shown, f'{PREDICTS}/grad_times_act')}.{few}",
        cells=shown,
    )


def _names(cell: Cell) -> list[str]:
    """Selectors of the curves, then those of the bars."""
    names = list(cell.series(SERIES)[0]["selector"])
    return names + [n for score in ("budget/effect_at_kl", PREDICTS) for n in _scored(cell, score)]


def _scored(cell: Cell, score: str) -> list[str]:
    """Variants that have a score, in the usual order."""
    names = {
        name.removeprefix(f"{score}/") for name in cell.first.scores if name.startswith(f"{score}/")
    }
    return list(variants_of([cell], sorted(names)))


def _effect(axes: Any, cell: Cell, of: Mapping[str, Look]) -> None:
    run = cell.series(SERIES)[0]
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


def _bars(axes: Any, cell: Cell, score: str, label: str, of: Mapping[str, Look]) -> None:
    """A dot with its interval for each variant, in the usual order, first on top."""
    order = _scored(cell, score)
    for at, name in enumerate(reversed(order)):
        found = cell.estimate(f"{score}/{name}")
        if found is None:
            continue
        colour, marker, _ = of[name]
        axes.plot([found.mean], [at], color=colour, marker=marker, linestyle="")
        whisker(axes, at, found, colour, horizontal=True)
    axes.set_yticks(range(len(order)), [cell.variant(n).label for n in reversed(order)])
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlabel(label)
    axes.axvline(0, color="#BBBBBB", linewidth=0.5, zorder=0)
    axes.grid(axis="x")
