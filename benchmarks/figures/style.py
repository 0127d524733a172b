"""One style for all figures: sizes of a paper column, axes, legends, files."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import Any

from benchmarks.figures.looks import Look
from benchmarks.results.labels import labels
from benchmarks.results.settings import MIN_SEEDS, Estimate, Setting
from benchmarks.results.worlds import world_title

COLUMN = 3.4
"""Inches: one column of a two-column paper."""
PAGE = 7.0
MAX_HEIGHT = 9.0
"""Of a page; what needs more goes on on another one."""
TITLE_WIDTH = 102
"""Letters of a title across a page."""

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
    """A figure and its array of axes, always two-dimensional."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(RC)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **options)


def whisker(
    axes: Any, at: float, found: Estimate, colour: str, *, horizontal: bool, **options: Any
) -> None:
    """The 95 % interval of an estimate, where it has one, with caps that no marker hides."""
    if found.low is None or found.high is None:
        return
    ends, place = [found.low, found.high], [at, at]
    x, y = (ends, place) if horizontal else (place, ends)
    cap = "|" if horizontal else "_"
    style = {"linewidth": 0.9, "markersize": 5, "zorder": 2, **options}
    axes.plot(x, y, color=colour, marker=cap, **style)


def seed_dots(axes: Any, at: float, setting: Setting, score: str, *, horizontal: bool) -> None:
    """Single seeds, small and grey, where there are several."""
    values = setting.values(score)
    if len(values) > 1:
        place = [at] * len(values)
        x, y = (values, place) if horizontal else (place, values)
        axes.scatter(x, y, s=5, color="#555555", alpha=0.5, linewidths=0, zorder=4)


def batches(items: Sequence[Any], most: int) -> list[Sequence[Any]]:
    """Items in order, in as few batches as hold at most so many, about equally large."""
    n = -(-len(items) // max(1, most))
    ends = [round(i * len(items) / n) for i in range(n + 1)] if n else []
    return [items[start:end] for start, end in pairwise(ends)]


def legend_height(entries: int, columns: int) -> float:
    """Inches that the legend of so many entries takes."""
    return 0.15 + 0.15 * -(-entries // columns)


def legend_below(figure: Any, handles: Sequence[Any], columns: int, **options: Any) -> None:
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, **options)


def escape(text: str) -> str:
    """Text of a record as it stands: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def shown_labels(settings: Sequence[Setting]) -> list[str]:
    return [escape(label) for label in labels(settings)]


def sae_label(setting: Setting) -> str:
    """The label of a setting, after its method where a label of its own leaves that out."""
    (label,), method = shown_labels([setting]), setting.about.label
    return label if label.startswith(method) else f"{method}, {label}"


def row_labels(settings: Sequence[Setting]) -> list[str]:
    """Labels that say which rows have fewer seeds than it takes for an interval."""
    many = max(setting.n_seeds for setting in settings) >= MIN_SEEDS
    notes = [
        f" ({setting.n_seeds} seed{'s' * (setting.n_seeds > 1)})"
        if many and setting.n_seeds < MIN_SEEDS
        else ""
        for setting in settings
    ]
    return [f"{label}{note}" for label, note in zip(shown_labels(settings), notes, strict=True)]


def where(setting: Setting) -> str:
    return escape(world_title(setting))


def handle(label: str, colour: Any, marker: str = "", **options: Any) -> Any:
    """An entry of a legend; `label` is plain text."""
    from matplotlib.lines import Line2D

    line = {"linestyle": "" if marker else "-", **options}
    return Line2D([], [], color=colour, marker=marker or None, label=escape(label), **line)


def line_handle(label: str, look: Look, **options: Any) -> Any:
    """The entry of a line with its markers."""
    return handle(label, look.colour, look.marker, **{"linestyle": look.dash, **options})


def plain_log(axes: Any, which: str) -> None:
    """A log axis that says 0.2, 0.5, 1, 2, 5, 10 in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def title(axes: Any, text: str, columns: int = 1) -> None:
    """Bold and flush left: what a row of panels is about. It may reach over the next panel.

    Where there are such titles in several columns it is smaller and broken into lines.
    """
    text = "\n".join(wrap(text, TITLE_WIDTH // columns, max_lines=3))
    axes.set_title("\n".join(" " for _ in text.splitlines()))  # keeps their height
    font = {"fontweight": "bold", "fontsize": 8} if columns == 1 else {"fontsize": 7}
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    note = axes.annotate(escape(text), (0, 1), (0, 4), **place, **font)
    note.set_in_layout(False)


def write(figure: Any, folder: Path, name: str) -> list[Path]:
    """SVG and PNG, the same bytes for the same records."""
    from matplotlib import pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    figure.set_dpi(RC["savefig.dpi"])
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")  # laid out; `savefig` would do it, and draw, twice a file
    FigureCanvasSVG(figure).print_svg(paths[0], metadata={"Date": None})
    figure.set_dpi(RC["savefig.dpi"])  # an SVG has 72
    FigureCanvasAgg(figure).print_png(paths[1], metadata={"Software": None})
    plt.close(figure)
    return paths
