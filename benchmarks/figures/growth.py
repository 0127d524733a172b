"""Draw scores against the rows of training: a column per world, a row per score, a page a width."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.drawing import Drawing, bind_pages, describe_intervals
from benchmarks.figures.looks import BLACK, GREY, Look, looks
from benchmarks.figures.style import (
    COLUMN,
    PAGE,
    escape,
    handle,
    legend_below,
    legend_height,
    line_handle,
    new_figure,
    whisker,
)
from benchmarks.results.growth import EXPERIMENT, Curve, Panel, most, panels, rows_text
from benchmarks.results.settings import Setting, methods_of

NAME = "growth"
COMMAND = f"python -m benchmarks.run experiment={EXPERIMENT}"
SHOWN = ("detection/f1", "recovery/mcc", "recovery/frr_0.9", "coverage/f1")
ROW, HEAD = 1.5, 0.55
"""Inches: the height of a row of panels, and of the titles with the labels of the axis."""
LEGEND_COLUMNS = 4
DODGE = 0.02
"""Decades between the marks of two methods at one length, so that intervals do not cover each
other."""


def draw(settings: Sequence[Setting]) -> Drawing | None:
    made = panels(settings)
    widths = sorted({panel.width for panel in made})
    return bind_pages([_page([p for p in made if p.width == width]) for width in widths])


def _page(worlds: Sequence[Panel]) -> Drawing:
    settings = [each for panel in worlds for curve in panel.curves for each in curve.settings]
    abouts = methods_of(settings)
    look_by_method = looks(abouts)
    names = [method for method in look_by_method if not abouts[method].is_control]
    controls = [method for method in look_by_method if abouts[method].is_control]
    handles = [line_handle(abouts[name].label, look_by_method[name]) for name in names]
    handles += [
        handle(abouts[name].label, look_by_method[name].colour, linestyle="--") for name in controls
    ]
    handles.append(handle("most there can be", GREY, linestyle=":"))
    handles.append(handle("falls", BLACK, "o", markerfacecolor="white"))
    figure, grid = new_figure(
        *(len(SHOWN), len(worlds)),
        width=min(PAGE, COLUMN * (0.5 + len(worlds) / 2)),
        height=HEAD + ROW * len(SHOWN) + legend_height(len(handles), LEGEND_COLUMNS),
        sharex="col",
        sharey="row",
    )
    for column, panel in zip(grid.T, worlds, strict=True):
        for axes, score in zip(column, SHOWN, strict=True):
            _panel(axes, panel, score, look_by_method)
        column[0].set_title(escape(panel.title.replace(", ", "\n", 1)), fontsize=7)
        column[-1].set_xlabel("rows of training")
    for axes, score in zip(grid[:, 0], SHOWN, strict=True):
        axes.set_ylabel(settings[0].score(score).header)
    legend_below(figure, handles, LEGEND_COLUMNS if len(worlds) > 1 else 2)
    width = worlds[0].width
    return Drawing(
        figure=figure,
        title=f"As training grows: {width:g} latents per feature.",
        text="Held-out scores over all features against the rows of training, logarithmic. Marks: "
        "the ends of trainings, each with a schedule of its own length; mean over seeds; "
        f"{describe_intervals(settings, SHOWN[0])}. Thin lines: the way of the longest training, "
        "whose learning rate has not yet decayed there. Open mark: the interval at the end lies "
        "below that at the method's best length. Grey and black: controls. Dotted: so many latents "
        f"per feature find {most(width):.0%} of the features at most.",
        settings=settings,
    )


def _panel(axes: Any, panel: Panel, score: str, look_by_method: Mapping[str, Look]) -> None:
    axes.set_xscale("log")
    trained = [curve for curve in panel.curves if not curve.about.is_control]
    for i, curve in enumerate(trained):
        shift = 10 ** (DODGE * (i - (len(trained) - 1) / 2))
        _curve(axes, curve, score, look_by_method[curve.last.method], shift)
    for curve in panel.controls:
        if (level := curve.last.mean(score)) is not None:
            axes.axhline(level, color=look_by_method[curve.last.method].colour, linestyle="--")
    top = most(panel.width)
    axes.axhline(top, color=GREY, linestyle=":", linewidth=0.8)
    axes.set_ylim(-0.04 * top, 1.06 * top)
    _ticks(axes, sorted({rows for curve in trained for rows, _ in curve.points(score)}))
    axes.grid()


def _curve(axes: Any, curve: Curve, score: str, look: Look, shift: float) -> None:
    """Draw the ends of a method's trainings, moved by a factor `shift`, and the longest's way."""
    points = curve.points(score)
    place = [rows * shift for rows, _ in points]
    means = [estimate.mean for _, estimate in points]
    style = {"color": look.colour, "linestyle": look.dash}
    axes.plot(place, means, marker=look.marker, linewidth=1.2, zorder=3, **style)
    for at, (_, estimate) in zip(place, points, strict=True):
        whisker(axes, at, estimate, look.colour, horizontal=False)
    if curve.falls_after(score) is not None:
        end = {"markerfacecolor": "white", "color": look.colour, "zorder": 4}
        axes.plot(place[-1], means[-1], look.marker, **end)
    axes.plot(*curve.along(score), linewidth=0.6, alpha=0.7, zorder=1, **style)


def _ticks(axes: Any, rows: Sequence[int]) -> None:
    """Label the lengths of training that there are."""
    from matplotlib.ticker import FixedLocator, NullLocator

    if rows:
        axes.xaxis.set_major_locator(FixedLocator(list(rows)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: rows_text(round(value)))
