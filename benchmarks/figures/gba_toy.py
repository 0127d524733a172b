"""Draw the GBA paper's toy: the paper's numbers beside ours, recipe by recipe."""

from collections.abc import Sequence
from typing import Any

from benchmarks.figures.drawing import Drawing, describe_intervals
from benchmarks.figures.looks import BLUE, VERMILLION, Look
from benchmarks.figures.style import (
    COLUMN,
    handle,
    legend_below,
    mark,
    new_figure,
    row_labels,
    seed_dots,
    set_rows,
)
from benchmarks.results.settings import Setting

NAME = "gba_toy"
COMMAND = "python -m benchmarks.run -m experiment=gba_toy"
SHOWN = {
    "recovery/frr_0.8": (Look(BLUE, "o"), -0.18),
    "recovery/frr_0.9": (Look(VERMILLION, "s"), 0.18),
}
"""Look of a score, and how far it stands from the middle of its row."""

RATE = 11.5 / 128
"""Share of activations on which a feature of the toy is active."""

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
    # Other settings on the same source may have other steps and widths.
    settings = [s for s in settings if s.setup.experiment == NAME] or settings
    if not settings:
        return None
    settings = sorted(settings, key=_order)
    names = row_labels(settings)
    papers = [paper_row(setting) for setting in settings]
    unmatched = [row for row in PAPER if row not in papers]
    rows = [*names, *(f"{row} (paper)" for row in unmatched)]
    figure, grid = new_figure(width=COLUMN * 1.35, height=0.8 + 0.26 * len(rows))
    axes = grid[0, 0]
    for at, (setting, paper) in enumerate(zip(settings, papers, strict=True)):
        _ours(axes, at, setting)
        _papers(axes, at, paper)
    for at, paper in enumerate(unmatched, start=len(settings)):
        _papers(axes, at, paper)
    _finish(figure, axes, rows)
    return Drawing(
        figure=figure,
        title="The GBA paper's toy (128 features in 42 dimensions; half of the activations have 3 "
        "active features, half have 20).",
        text=f"Feature recovery rate of each recipe. Filled: ours, mean over seeds; "
        f"{describe_intervals(settings, 'recovery/frr_0.8', dots=True)}. Hollow: the paper's table "
        "(Chen et al. 2025), which gives neither seeds nor intervals; each of its rows is drawn "
        "beside every recipe of ours that it may describe.",
        settings=settings,
    )


def paper_row(setting: Setting) -> str | None:
    """Return the row of the paper's table that a recipe repeats or varies, or None."""
    if setting.method == "topk":
        name = f"TopK K={setting.setup.trainer.get('k')}"
        return name if name in PAPER else None
    if setting.method != "gba":
        return None
    highest = setting.setup.trainer.get("htf")
    low = isinstance(highest, int | float) and highest < RATE / 4
    return "GBA, wrong frequency range" if low else "GBA, targets cover f"


def _order(setting: Setting) -> tuple[Any, ...]:
    """Return the sort key of rows: method, k, then score."""
    methods = ["topk", "l1", "ba", "gba"]
    place = methods.index(setting.method) if setting.method in methods else len(methods)
    k = setting.setup.trainer.get("k")
    score = setting.mean("recovery/frr_0.8") or 0.0, setting.mean("recovery/frr_0.9") or 0.0
    return (place, k if isinstance(k, int) else 0, score)


def _ours(axes: Any, at: int, setting: Setting) -> None:
    for score, (look, shift) in SHOWN.items():
        estimate = setting.estimate(score)
        if estimate is not None:
            mark(axes, at + shift, estimate, look, horizontal=True)
            seed_dots(axes, at + shift, setting, score)


def _papers(axes: Any, at: int, row: str | None) -> None:
    if row is None:
        return
    for value, (look, shift) in zip(PAPER[row], SHOWN.values(), strict=True):
        axes.plot(
            *(value, at + shift, look.marker),
            markerfacecolor="none",
            markeredgecolor=look.colour,
            markersize=7,
            markeredgewidth=0.8,
            zorder=5,
        )


def _finish(figure: Any, axes: Any, rows: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xlabel("feature recovery rate")
    set_rows(axes)
    for at in range(1, len(rows)):
        axes.axhline(at - 0.5, color="#EEEEEE", linewidth=0.4, zorder=0)
    handles = []
    for (look, _), tau in zip(SHOWN.values(), (".8", ".9"), strict=True):
        handles.append(handle(f"ours, cosine > {tau}", look.colour, look.marker))
        hollow = {"markerfacecolor": "none", "markersize": 7, "markeredgewidth": 0.8}
        handles.append(handle(f"paper, cosine > {tau}", look.colour, look.marker, **hollow))
    legend_below(figure, handles, 2)
