"""The toy of the GBA paper: its table beside ours, recipe by recipe."""

from collections.abc import Sequence
from typing import Any

from benchmarks.figures.drawing import Drawing, bars
from benchmarks.figures.looks import BLUE, VERMILLION
from benchmarks.figures.style import (
    COLUMN,
    handle,
    legend_below,
    new_figure,
    row_labels,
    seed_dots,
    whisker,
)
from benchmarks.results.settings import Setting

NAME = "gba_toy"
COMMAND = "python -m benchmarks.run -m experiment=gba_toy"
SHOWN = {"recovery/frr_0.8": (BLUE, "o", -0.18), "recovery/frr_0.9": (VERMILLION, "s", 0.18)}

RATE = 11.5 / 128
"""Firing rate of every feature of the toy."""

# Chen et al. 2025, https://arxiv.org/abs/2506.14002 (ICLR version): FRR at .8 and .9; no intervals.
PAPER = {
    "TopK K=20": (1.0, 0.984),
    "TopK K=30": (0.984, 0.242),
    "TopK K=50": (0.945, 0.234),
    "GBA, targets cover f": (1.0, 1.0),
    "GBA, wrong frequency range": (0.383, 0.039),
}


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting
        for setting in settings
        if setting.task == "recovery" and setting.setup.source.name == "two_sparsity"
    ]
    # Other runs on the same source (a quickstart) may have other steps and widths.
    settings = [c for c in settings if c.setup.experiment == "gba_toy"] or settings
    if not settings:
        return None
    settings = sorted(settings, key=_order)
    names = row_labels(settings)
    papers = [paper_row(setting) for setting in settings]
    alone = [row for row in PAPER if row not in papers]  # published, not repeated here
    rows = [*names, *(f"{row} (paper)" for row in alone)]
    figure, grid = new_figure(width=COLUMN * 1.35, height=0.8 + 0.26 * len(rows))
    axes = grid[0, 0]
    for at, (setting, paper) in enumerate(zip(settings, papers, strict=True)):
        _ours(axes, at, setting)
        _papers(axes, at, paper)
    for at, paper in enumerate(alone, start=len(settings)):
        _papers(axes, at, paper)
    _finish(figure, axes, rows)
    return Drawing(
        figure=figure,
        title="The GBA paper's toy (128 features in 42 dimensions; half the rows have 3 active, "
        "half 20).",
        text=f"Feature recovery rate of each recipe. Filled: ours, mean over seeds; "
        f"{bars(settings, 'recovery/frr_0.8', dots=True)}. Hollow: the paper's table "
        "(Chen et al. 2025), which gives neither seeds nor intervals; it is drawn at every recipe "
        "of ours that it may stand for.",
        settings=settings,
    )


def paper_row(setting: Setting) -> str | None:
    """The row of the paper's table that a recipe repeats or departs from, if there is one."""
    if setting.method == "topk":
        name = f"TopK K={setting.setup.trainer.get('k')}"
        return name if name in PAPER else None
    if setting.method != "gba":
        return None
    highest = setting.setup.trainer.get("htf")
    low = isinstance(highest, int | float) and highest < RATE / 4
    return "GBA, wrong frequency range" if low else "GBA, targets cover f"


def _order(setting: Setting) -> tuple[Any, ...]:
    methods = ["topk", "l1", "ba", "gba"]
    place = methods.index(setting.method) if setting.method in methods else len(methods)
    k = setting.setup.trainer.get("k")
    score = setting.mean("recovery/frr_0.8") or 0.0, setting.mean("recovery/frr_0.9") or 0.0
    return (place, k if isinstance(k, int) else 0, score)


def _ours(axes: Any, at: int, setting: Setting) -> None:
    for score, (colour, marker, shift) in SHOWN.items():
        found = setting.estimate(score)
        if found is not None:
            whisker(axes, at + shift, found, colour, horizontal=True)
            axes.plot(found.mean, at + shift, marker, color=colour, zorder=3)
            seed_dots(axes, at + shift, setting, score, horizontal=True)


def _papers(axes: Any, at: int, row: str | None) -> None:
    if row is None:
        return
    for value, (colour, marker, shift) in zip(PAPER[row], SHOWN.values(), strict=True):
        axes.plot(
            *(value, at + shift, marker),
            markerfacecolor="none",
            markeredgecolor=colour,
            markersize=7,
            markeredgewidth=0.8,
            zorder=5,
        )


def _finish(figure: Any, axes: Any, rows: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xlabel("feature recovery rate")
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for at in range(1, len(rows)):
        axes.axhline(at - 0.5, color="#EEEEEE", linewidth=0.4, zorder=0)
    handles = []
    for (colour, marker, _), tau in zip(SHOWN.values(), (".8", ".9"), strict=True):
        handles.append(handle(f"ours, cosine > {tau}", colour, marker))
        hollow = {"markerfacecolor": "none", "markersize": 7, "markeredgewidth": 0.8}
        handles.append(handle(f"paper, cosine > {tau}", colour, marker, **hollow))
    legend_below(figure, handles, 2)
