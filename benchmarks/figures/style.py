"""One style for all figures: sizes of a paper column, axes, legends, files."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import Any

from benchmarks.figures.looks import Look
from benchmarks.results.labels import labels
from benchmarks.results.settings import MIN_SEEDS, Estimate, Setting
from gradsae.about import About
from gradsae.storage.files import replacing

COLUMN = 3.4
"""Inches: the width of one column of a two-column paper."""
PAGE = 7.0
"""Inches: the width of a page."""
MAX_HEIGHT = 9.0
"""Inches: the height of a page. A taller figure is spread over several pages."""
TITLE_WIDTH = 102
"""Letters that a title across a page has room for."""
PALE = "#BBBBBB"
"""Colour of the line at zero."""

RC: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.6,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "grid.linewidth": 0.4,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
    "savefig.dpi": 250,
    "svg.hashsalt": "gradsae",  # the same records give the same file
    "figure.constrained_layout.use": True,
}


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = COLUMN, height: float, **options: Any
) -> tuple[Any, Any]:
    """Return a figure and its array of axes, which always has two dimensions.

    Width and height are in inches; `options` go to matplotlib's `subplots`.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(RC)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)


def whisker(
    axes: Any, at: float, estimate: Estimate, colour: Any, *, horizontal: bool, **options: Any
) -> None:
    """Draw the 95 % interval of an estimate, if it has one, with caps that no marker hides.

    `at` is the place on the other axis: that of the rows if the interval is `horizontal`.
    """
    if estimate.low is None or estimate.high is None:
        return
    ends, place = [estimate.low, estimate.high], [at, at]
    x, y = (ends, place) if horizontal else (place, ends)
    cap = "|" if horizontal else "_"
    style = {"linewidth": 0.9, "markersize": 5, "zorder": 2, **options}
    axes.plot(x, y, color=colour, marker=cap, **style)


def mark(axes: Any, at: float, estimate: Estimate, look: Look, *, horizontal: bool) -> None:
    """Draw an estimate: its mean as a marker, and its interval if it has one."""
    whisker(axes, at, estimate, look.colour, horizontal=horizontal)
    place = (estimate.mean, at) if horizontal else (at, estimate.mean)
    axes.plot(*place, look.marker, color=look.colour, zorder=3)


def seed_dots(axes: Any, at: float, setting: Setting, score: str) -> None:
    """Draw the score of each seed in a row, small, grey and below the marker of the mean."""
    values = setting.values(score)
    if len(values) > 1:
        place = [at] * len(values)
        axes.scatter(values, place, s=5, color="#555555", alpha=0.5, linewidths=0, zorder=2.5)


def zero_line(axes: Any, *, vertical: bool = False) -> None:
    """Draw a pale line at zero, below everything else."""
    draw_line = axes.axvline if vertical else axes.axhline
    draw_line(0, color=PALE, linewidth=0.5, zorder=0)


def set_rows(axes: Any) -> None:
    """Set up an axis that has a named row for each setting: vertical grid lines, no frame."""
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def hide(panels: Iterable[Any]) -> None:
    """Hide the axes of a grid that have no panel."""
    for axes in panels:
        axes.set_visible(False)


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Split items, in order, into the fewest batches of at most `size`, about equally large."""
    n = -(-len(items) // max(1, size))
    ends = [round(i * len(items) / n) for i in range(n + 1)] if n else []
    return [items[start:end] for start, end in pairwise(ends)]


def legend_height(entries: int, columns: int) -> float:
    """Return the inches that a legend takes."""
    return 0.15 + 0.15 * -(-entries // columns)


def legend_below(figure: Any, handles: Sequence[Any], columns: int, **options: Any) -> None:
    """Draw one legend for all panels, below them."""
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, **options)


def escape(text: str) -> str:
    """Return a record's text so that it is drawn as it stands: `$` would begin a formula."""
    return text.replace("$", r"\$")


def shown_labels(settings: Sequence[Setting]) -> list[str]:
    """Return the labels of settings, ready to be drawn."""
    return [escape(label) for label in labels(settings)]


def row_labels(settings: Sequence[Setting]) -> list[str]:
    """Return labels which say what settings have too few seeds for an interval.

    They say nothing of it where all settings have too few.
    """
    any_interval = max(setting.n_seeds for setting in settings) >= MIN_SEEDS
    notes = [
        f" ({setting.n_seeds} seed{'s' * (setting.n_seeds > 1)})"
        if any_interval and setting.n_seeds < MIN_SEEDS
        else ""
        for setting in settings
    ]
    return [f"{label}{note}" for label, note in zip(shown_labels(settings), notes, strict=True)]


def handle(label: str, colour: Any, marker: str = "", **options: Any) -> Any:
    """Return an entry of a legend; `label` is plain text."""
    from matplotlib.lines import Line2D

    line = {"linestyle": "" if marker else "-", **options}
    return Line2D([], [], color=colour, marker=marker or None, label=escape(label), **line)


def line_style(look: Look) -> dict[str, Any]:
    """Return what matplotlib's `plot` takes for a line of this look."""
    return {"color": look.colour, "marker": look.marker, "linestyle": look.dash}


def line_handle(label: str, look: Look, **options: Any) -> Any:
    """Return the legend entry of a line with its markers."""
    return handle(label, look.colour, look.marker, **{"linestyle": look.dash, **options})


def line_handles(
    abouts: Mapping[str, About], look_by_name: Mapping[str, Look], **options: Any
) -> list[Any]:
    """Return the legend entries of methods or estimators, in the order of `look_by_name`.

    Those without an About are left out.
    """
    names = [name for name in look_by_name if name in abouts]
    return [line_handle(abouts[name].label, look_by_name[name], **options) for name in names]


def plain_log(axes: Any, which: str) -> None:
    """Make the axis "x" or "y" logarithmic, with ticks in plain numbers: 0.2, 0.5, 1, 2, 5, 10."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def row_title(axes: Any, text: str, columns: int = 1) -> None:
    """Write the title of a row of panels above its first one, bold and flush left.

    It may reach over the next panel. With titles in several `columns` it is smaller, not bold,
    and broken into lines.
    """
    letters = TITLE_WIDTH if columns == 1 else TITLE_WIDTH * 8 // (7 * columns)  # 8 or 7 points
    text = "\n".join(wrap(text, letters, max_lines=3))
    axes.set_title("\n".join(" " for _ in text.splitlines()))  # reserves the height
    font = {"fontweight": "bold", "fontsize": 8} if columns == 1 else {"fontsize": 7}
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    note = axes.annotate(escape(text), (0, 1), (0, 4), **place, **font)
    note.set_in_layout(False)


def write_figure(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write SVG and PNG, the same bytes for the same records; return their paths."""
    from matplotlib import pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    figure.set_dpi(RC["savefig.dpi"])
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")  # `savefig` would lay out and draw each file twice
    with replacing(paths[0]) as fresh:
        FigureCanvasSVG(figure).print_svg(fresh, metadata={"Date": None})
    figure.set_dpi(RC["savefig.dpi"])  # print_svg has set it to 72
    with replacing(paths[1]) as fresh:
        FigureCanvasAgg(figure).print_png(fresh, metadata={"Software": None})
    plt.close(figure)
    return paths
