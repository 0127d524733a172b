"""What figures of influence share: stacks of panels, a stretched axis, a legend by family."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.figures.looks import Look, looks
from benchmarks.figures.style import (
    COLUMN,
    PAGE,
    hide,
    legend_below,
    legend_height,
    line_handles,
    new_figure,
)
from benchmarks.results.settings import Estimate, Setting, variants_of

COLUMNS = 3
TICKS = (-1, -0.5, 0, 0.5, 0.8, 0.9, 0.95, 1)
HEADROOM = 0.03
"""The stretched axis has its pole this far beyond 1, so that 1 itself can be drawn."""


def make_panels(
    n: int, rows: Sequence[str], look_by_name: Mapping[str, Look], height: float
) -> tuple[Any, list[Any]]:
    """Return a figure and its n stacks of axes, three side by side.

    A stack has one panel, `height` inches tall, for each label of `rows`. Below the panels there is
    room for a legend of these looks.
    """
    columns = min(COLUMNS, n)
    bands = -(-n // columns)
    legend = legend_height(len(look_by_name) + 2, legend_columns(columns > 1))
    figure, grid = new_figure(
        *(bands * len(rows), columns),
        width=COLUMN if columns == 1 else PAGE,
        height=0.7 + height * bands * len(rows) + legend,
        sharex=True,
        sharey="row",
    )
    stacks = [
        grid[band * len(rows) : (band + 1) * len(rows), column]
        for band in range(bands)
        for column in range(columns)
    ]
    for stack in stacks[:n]:
        stack[-1].tick_params(labelbottom=True)
    for stack in stacks[:n:columns]:
        for axes, label in zip(stack, rows, strict=True):
            axes.set_ylabel(label)
    hide(axes for stack in stacks[n:] for axes in stack)
    return figure, stacks[:n]


def stretched_axis(axes: Any, least: float) -> None:
    """Let the vertical axis run from `least` to 1, with more room for differences near 1."""
    import numpy as np

    def stretch(value: Any) -> Any:
        return -np.log(np.maximum(1 + HEADROOM - value, HEADROOM / 9))

    def back(value: Any) -> Any:
        return 1 + HEADROOM - np.exp(-value)

    axes.set_yscale("function", functions=(stretch, back))
    axes.set_ylim(min(least, 0) - 0.1, 1 + HEADROOM / 3)
    axes.set_yticks([tick for tick in TICKS if tick >= axes.get_ylim()[0]])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()


def lower_end(estimate: Estimate) -> float:
    """Return the lower end of the interval, or the mean if there is no interval."""
    return estimate.mean if estimate.low is None else estimate.low


def family_looks(settings: Sequence[Setting], names: Iterable[str]) -> dict[str, Look]:
    """Return the looks of estimators, in the order of their families."""
    return looks(variants_of(settings, names))


def family_legend(
    figure: Any,
    settings: Sequence[Setting],
    look_by_name: Mapping[str, Look],
    extra_handles: Sequence[Any],
    *,
    wide: bool,
    **options: Any,
) -> None:
    """Draw the legend of estimators below the panels, `wide` or a column wide.

    `options` change the handles; `extra_handles` stand at the end.
    """
    handles = line_handles(variants_of(settings, look_by_name), look_by_name, **options)
    columns = legend_columns(wide)
    small = {"fontsize": 6, "columnspacing": 1.0, "handlelength": 3.0}
    legend_below(figure, [*handles, *extra_handles], columns, **small)


def legend_columns(wide: bool) -> int:
    """Return the number of columns of the legend."""
    return 4 if wide else 2
