"""The GBA paper's synthetic experiments: scores against one swept quantity, a line per method."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from benchmarks.figures.drawing import Drawing, Figure, bars
from benchmarks.figures.looks import GREY, Look, series
from benchmarks.figures.style import COLUMN, PAGE, handle, legend_below, line_handle, new_figure
from benchmarks.results.labels import seedless
from benchmarks.results.settings import Setting, methods_of
from benchmarks.results.worlds import in_order
from gradsae.about import About
from gradsae.records.record import part

SHOWN = ("recovery/frr_0.9", "recovery/mcc", "reconstruction/fvu")
Line = tuple[str, Any]
"""Method, and what else tells one line from another (see `Sweep.line`)."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One experiment: what is swept, and how its figure says so."""

    name: str
    """Of the experiment and of the figure."""
    title: str
    text: str
    axis: str
    x: Callable[[Setting], float | None]
    """The swept quantity; None for a method without it, which is drawn as a level line."""
    free: tuple[str, ...]
    """Fields of source and trainer in which the settings of this experiment differ."""
    log: bool = False
    line: tuple[str, str] | None = None
    """A field of the config that, beside the method, tells lines apart."""
    facet: tuple[str, str] | None = None
    """A field of the config with a column of panels for each of its values."""
    mark: Callable[[Setting], float] | None = None
    """A place on the axis where the paper says that something changes."""


def spread_of_rates(setting: Setting) -> float:
    """Highest over lowest rate, where rates fall as (i + 1)^-exponent."""
    return setting.setup.source.get("n_features") ** setting.setup.source.get("exponent")


def co_occurrence(setting: Setting) -> float:
    """rho_2, the largest share of a feature's rows on which one other is active (see `paired`)."""
    paired = setting.setup.source.get("paired") or 0.0
    size, n = setting.setup.source.get("l0"), setting.setup.source.get("n_features")
    return paired + (1 - paired) * (size - 1) / (n - 1)


def noise_share(setting: Setting) -> float:
    """Noise over signal, in mean squares: rows of balanced coefficients have norm 1 or so."""
    return setting.setup.source.get("width") * setting.setup.source.get("noise") ** 2


SWEEPS = (
    Sweep(
        name="sparsity",
        title="Active features per row.",
        text="Exactly s of 128 features are active on a row; TopK is given s.",
        axis="s, active features per row",
        x=lambda setting: setting.setup.source.get("l0"),
        free=("l0",),
        log=True,
    ),
    Sweep(
        name="noise",
        title="Noise.",
        text="Gaussian noise in all dimensions; the theorem has none.",
        axis="noise over signal, mean squares",
        x=noise_share,
        free=("noise",),
    ),
    Sweep(
        name="cooccurrence",
        title="Co-occurrence.",
        text="Features come in pairs, which share a growing part of their rows; all rates stay "
        "equal. Dashed: 1 / sqrt(n), above which the paper says that recovery drops.",
        axis=r"co-occurrence $\rho_2$",
        x=co_occurrence,
        free=("paired",),
        mark=lambda setting: setting.setup.source.get("n_features") ** -0.5,
    ),
    Sweep(
        name="width",
        title="Width, and how much coefficients vary.",
        text="128 features; columns: the law of the coefficients on a row.",
        axis="latents",
        x=lambda setting: setting.setup.trainer.get("d_sae"),
        free=("d_sae", "coefficients"),
        log=True,
        facet=("source", "coefficients"),
    ),
    Sweep(
        name="unbalanced",
        title="Unbalanced rates.",
        text="Rates of the 128 features fall as a power law; their sum stays the same.",
        axis="highest over lowest rate",
        x=spread_of_rates,
        free=("exponent",),
        log=True,
    ),
    Sweep(
        name="initialisation",
        title="Initialisation.",
        text="GBA's output scale at the start (the theorem lets it go to 0), with biases that "
        "start at the quantiles of their target rates or at zero. Level lines: methods without "
        "such a scale.",
        axis="output scale at the start",
        x=lambda setting: setting.setup.trainer.get("scale_init"),
        free=("scale_init", "bias_init"),
        log=True,
        line=("trainer", "bias_init"),
    ),
)


NAMES = {sweep.name for sweep in SWEEPS}


def draw(sweep: Sweep, settings: Sequence[Setting]) -> Drawing | None:
    settings = settings_of(sweep, settings)
    if not settings:
        return None
    facets = _values(settings, sweep.facet)
    figure, grid = new_figure(
        *(len(SHOWN), len(facets)),
        width=COLUMN if len(facets) == 1 else min(PAGE, COLUMN * (0.5 + len(facets) / 2)),
        height=0.7 + 1.15 * len(SHOWN),
        sharex=True,
        sharey="row",
    )
    abouts = methods_of(settings)
    of = looks_of(lines_of(sweep, settings), abouts)
    for column, facet in zip(grid.T, facets, strict=True):
        shown = [setting for setting in settings if _value(setting, sweep.facet) == facet]
        for axes, score in zip(column, SHOWN, strict=True):
            _panel(axes, sweep, shown, score, of)
        column[-1].set_xlabel(sweep.axis)
        if facet is not None:
            column[0].set_title(str(facet).replace("_", " "))
    for axes, score in zip(grid[:, 0], SHOWN, strict=True):
        axes.set_ylabel(settings[0].score(score).header)
    legend_below(figure, _legend(sweep, of, abouts), 4 if sweep.line is None else 2)
    return Drawing(
        figure=figure,
        title=sweep.title,
        text=f"{sweep.text} Feature recovery rate at a cosine of 0.9, mean matched cosine (MCC) "
        "and fraction of variance unexplained on held-out rows, which a method with a good "
        "recovery need not have low. Lines: mean over seeds; "
        f"{bars(settings, SHOWN[0], mark='bands')}"
        "; where lines coincide, the one that stands first in the legend is the "
        "widest; dotted grey: chance, the same score of random directions.",
        settings=settings,
    )


def settings_of(sweep: Sweep, settings: Sequence[Setting]) -> list[Setting]:
    """The settings of an experiment, and those of its sisters that are a setting of it, too.

    Sisters have a world in common, say the one without noise and with single features. A setting is
    done once and bears the name of the experiment that came first.
    """
    settings = [c for c in settings if c.task == "recovery" and c.setup.experiment in NAMES]
    own = [setting for setting in settings if setting.setup.experiment == sweep.name]
    methods = {setting.method for setting in own}
    return [
        setting
        for setting in settings
        if any(
            _alike(sweep, setting, one)
            for one in own
            if one.method == setting.method or setting.method not in methods
        )
    ]


def _alike(sweep: Sweep, setting: Setting, one: Setting) -> bool:
    """Whether two settings agree in all that the experiment does not sweep, the method apart."""
    worlds, starts = zip(_fixed(sweep, setting), _fixed(sweep, one), strict=True)
    if worlds[0] != worlds[1]:
        return False
    return all(None in values or len({*values}) == 1 for values in zip(*starts, strict=True))


def _fixed(sweep: Sweep, setting: Setting) -> tuple[dict[str, Any], list[Any]]:
    """World and training, and what a method may lack: None where it does."""
    source = seedless(setting.first.config["source"])
    world = {name: value for name, value in source.items() if name not in sweep.free}
    starts = [name for name in ("d_sae", "scale_init", "bias_init") if name not in sweep.free]
    return {**world, "fit": setting.first.config.get("fit")}, [
        setting.setup.trainer.get(name) for name in starts
    ]


def lines_of(sweep: Sweep, settings: Sequence[Setting]) -> dict[Line, list[Setting]]:
    """Cells of each line in the order of the swept quantity; methods in their usual order."""
    found: dict[Line, list[Setting]] = {}
    for setting in in_order(settings):
        found.setdefault((setting.method, _value(setting, sweep.line)), []).append(setting)
    return {
        line: sorted(members, key=lambda setting: sweep.x(setting) or 0.0)
        for line, members in found.items()
    }


def _panel(
    axes: Any, sweep: Sweep, settings: Sequence[Setting], score: str, of: Mapping[Line, Look]
) -> None:
    lines = lines_of(sweep, settings)
    for above, (line, members) in zip(reversed(range(len(lines))), lines.items(), strict=True):
        _line(axes, sweep, members, score, of[line], 1 + 0.4 * above)
    _chance(axes, sweep, settings, f"{score}/chance")
    if sweep.mark is not None:
        axes.axvline(sweep.mark(settings[0]), color="#555555", linewidth=0.8, linestyle="--")
    if sweep.log:
        _log_axis(axes, sorted({x for setting in settings if (x := sweep.x(setting)) is not None}))
    if "fvu" in score:
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(-0.04, 1.04)
    axes.grid()


def _line(
    axes: Any, sweep: Sweep, settings: Sequence[Setting], score: str, look: Look, wide: float
) -> None:
    style = {"color": look.colour, "linestyle": look.dash, "linewidth": wide}
    points = [
        (sweep.x(setting), found)
        for setting in settings
        if (found := setting.estimate(score)) is not None
    ]
    level = [found for x, found in points if x is None]
    for found in level:
        axes.axhline(found.mean, **style)
        if found.low is not None and found.high is not None:
            axes.axhspan(found.low, found.high, color=style["color"], alpha=0.13, linewidth=0)
    points = [(x, found) for x, found in points if x is not None]
    if not points:
        return
    means = [found.mean for _, found in points]
    axes.plot([x for x, _ in points], means, marker=look.marker, markersize=2.4 + wide, **style)
    ends = [(x, found.low, found.high) for x, found in points if found.low is not None]
    if ends:
        x, low, high = zip(*ends, strict=True)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.13, linewidth=0)


def _chance(axes: Any, sweep: Sweep, settings: Sequence[Setting], score: str) -> None:
    """Mean over the methods, whose random directions differ by their draw alone."""
    at: dict[float, list[float]] = {}
    for setting in settings:
        x, value = sweep.x(setting), setting.mean(score)
        if x is not None and value is not None:
            at.setdefault(x, []).append(value)
    if at:
        axes.plot(sorted(at), [fmean(at[x]) for x in sorted(at)], color=GREY, linestyle=":")


def _log_axis(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with the swept values as its ticks, as far as there is room."""
    from matplotlib.ticker import FixedLocator, NullLocator

    if not values:
        return
    axes.set_xscale("log")
    room = (values[-1] / values[0]) ** (1 / 9)
    ticks = [values[0]]
    for value in values[1:]:
        if value >= room * ticks[-1]:
            ticks.append(value)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")


def _legend(sweep: Sweep, of: Mapping[Line, Look], abouts: Mapping[str, About]) -> list[Any]:
    handles = []
    for (method, value), look in of.items():
        name = abouts[method].label
        more = f", {sweep.line[1].replace('_', ' ')} {value}" if sweep.line and value else ""
        handles.append(line_handle(name + more, look))
    return [*handles, handle("chance", GREY, linestyle=":")]


def looks_of(lines: Iterable[Line], abouts: Mapping[str, About]) -> dict[Line, Look]:
    """The look of each line; the lines of one method differ in their dashes."""
    lines = list(lines)
    return dict(zip(lines, series([method for method, _ in lines], abouts), strict=True))


def _values(settings: Sequence[Setting], field: tuple[str, str] | None) -> list[Any]:
    return sorted({_value(setting, field) for setting in settings}, key=str)


def _value(setting: Setting, field: tuple[str, str] | None) -> Any:
    return None if field is None else part(setting.first, *field)


FIGURES = tuple(
    Figure(
        NAME=sweep.name,
        COMMAND=f"python -m benchmarks.run experiment={sweep.name}",
        draw=partial(draw, sweep),
    )
    for sweep in SWEEPS
)
