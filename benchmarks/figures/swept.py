"""Draw the GBA paper's synthetic experiments: scores against one swept quantity."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from benchmarks.figures.drawing import Drawing, Figure, describe_intervals
from benchmarks.figures.looks import GREY, Look, series
from benchmarks.figures.style import (
    COLUMN,
    PAGE,
    handle,
    legend_below,
    line_handle,
    line_style,
    new_figure,
)
from benchmarks.results.labels import seedless
from benchmarks.results.settings import Estimate, Setting, methods_of
from benchmarks.results.worlds import in_order
from gradsae.about import About

SHOWN = ("recovery/frr_0.9", "recovery/mcc", "reconstruction/fvu")
Line = tuple[str, Any]
"""Method, and the value of the field that tells its lines apart (see `Sweep.line`)."""
BAND = {"alpha": 0.13, "linewidth": 0}
"""Style of the interval of a line."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One experiment: what it sweeps, and the words of its figure."""

    name: str
    """The name of the experiment and of its figure."""
    title: str
    text: str
    axis: str
    """Label of the horizontal axis."""
    x: Callable[[Setting], float | None]
    """Returns the swept quantity; None for a method without it, which is drawn as a level line."""
    free: tuple[str, ...]
    """Fields of source and trainer in which the settings of this experiment differ."""
    log: bool = False
    """True for a logarithmic horizontal axis."""
    line: str | None = None
    """A field of the trainer that, besides the method, tells lines apart."""
    facet: str | None = None
    """A field of the source; each of its values has a column of panels."""
    mark: Callable[[Setting], float] | None = None
    """Returns a place on the axis where the paper says that something changes."""


def spread_of_rates(setting: Setting) -> float:
    """Return the highest rate over the lowest, where rates fall as (i + 1)^-exponent."""
    return setting.setup.source.get("n_features") ** setting.setup.source.get("exponent")


def co_occurrence(setting: Setting) -> float:
    """Return rho_2: of a feature's activations, the largest share on which one other is active."""
    paired = setting.setup.source.get("paired") or 0.0
    size, n = setting.setup.source.get("l0"), setting.setup.source.get("n_features")
    return paired + (1 - paired) * (size - 1) / (n - 1)


def noise_share(setting: Setting) -> float:
    """Return noise over signal, in mean squares, for balanced coefficients: a signal of norm 1."""
    return setting.setup.source.get("width") * setting.setup.source.get("noise") ** 2


SWEEPS = (
    Sweep(
        name="sparsity",
        title="Active features per activation.",
        text="Exactly s of 128 features are active on an activation; TopK has k = s.",
        axis="s, active features per activation",
        x=lambda setting: setting.setup.source.get("l0"),
        free=("l0",),
        log=True,
    ),
    Sweep(
        name="noise",
        title="Noise.",
        text="Gaussian noise in all dimensions; the theorem assumes none.",
        axis="noise over signal, mean squares",
        x=noise_share,
        free=("noise",),
    ),
    Sweep(
        name="cooccurrence",
        title="Co-occurrence.",
        text="Features come in pairs that are active together on a growing share of activations; "
        "all rates stay equal. Dashed: 1 / sqrt(n), above which the paper says that recovery "
        "drops.",
        axis=r"co-occurrence $\rho_2$",
        x=co_occurrence,
        free=("paired",),
        mark=lambda setting: setting.setup.source.get("n_features") ** -0.5,
    ),
    Sweep(
        name="width",
        title="Number of latents, and how much coefficients vary.",
        text="128 features; columns: the distribution of the coefficients of an activation.",
        axis="number of latents",
        x=lambda setting: setting.setup.trainer.get("d_sae"),
        free=("d_sae", "coefficients"),
        log=True,
        facet="coefficients",
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
        text="GBA's output scale at the start of training (in the theorem it tends to 0), with "
        "biases that start at the quantiles of their target rates or at zero. Level lines: methods "
        "without such a scale.",
        axis="output scale at the start",
        x=lambda setting: setting.setup.trainer.get("scale_init"),
        free=("scale_init", "bias_init"),
        log=True,
        line="bias_init",
    ),
)


NAMES = {sweep.name for sweep in SWEEPS}


def draw(sweep: Sweep, settings: Sequence[Setting]) -> Drawing | None:
    settings = settings_of(sweep, settings)
    if not settings:
        return None
    facets = sorted({_facet_of(sweep, setting) for setting in settings}, key=str)
    figure, grid = new_figure(
        *(len(SHOWN), len(facets)),
        width=COLUMN if len(facets) == 1 else min(PAGE, COLUMN * (0.5 + len(facets) / 2)),
        height=0.7 + 1.15 * len(SHOWN),
        sharex=True,
        sharey="row",
    )
    abouts = methods_of(settings)
    look_by_line = _line_looks(lines_of(sweep, settings), abouts)
    for column, facet in zip(grid.T, facets, strict=True):
        shown = [setting for setting in settings if _facet_of(sweep, setting) == facet]
        for axes, score in zip(column, SHOWN, strict=True):
            _panel(axes, sweep, shown, score, look_by_line)
        column[-1].set_xlabel(sweep.axis)
        if facet is not None:
            column[0].set_title(str(facet).replace("_", " "))
    for axes, score in zip(grid[:, 0], SHOWN, strict=True):
        axes.set_ylabel(settings[0].score(score).header)
    legend_below(figure, _handles(sweep, look_by_line, abouts), 4 if sweep.line is None else 2)
    return Drawing(
        figure=figure,
        title=sweep.title,
        text=f"{sweep.text} Scores: feature recovery rate at a cosine of 0.9, mean matched cosine "
        "(MCC), and fraction of variance unexplained (FVU) on held-out activations; a method that "
        "recovers the features may still have a high FVU. Lines: mean over seeds; "
        f"{describe_intervals(settings, SHOWN[0], mark='bands')}; lines that stand earlier in the "
        "legend are wider, so that lines which coincide can be seen; dotted grey: chance, the same "
        "score of random directions.",
        settings=settings,
    )


def settings_of(sweep: Sweep, settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings of an experiment, also those that another experiment ran first.

    The experiments share worlds, for example the one without noise and without pairs. A setting
    that several experiments share is run once and has the name of the first one.
    """
    settings = [
        setting
        for setting in settings
        if setting.task == "recovery" and setting.setup.experiment in NAMES
    ]
    members = [setting for setting in settings if setting.setup.experiment == sweep.name]
    methods = {setting.method for setting in members}
    return [
        setting
        for setting in settings
        if any(
            _belongs_with(sweep, setting, member)
            for member in members
            if member.method == setting.method or setting.method not in methods
        )
    ]


def _belongs_with(sweep: Sweep, setting: Setting, member: Setting) -> bool:
    """Return True if two settings agree in all that is not swept; their methods may differ."""
    worlds, starts = zip(_fixed(sweep, setting), _fixed(sweep, member), strict=True)
    if worlds[0] != worlds[1]:
        return False
    return all(None in values or len({*values}) == 1 for values in zip(*starts, strict=True))


def _fixed(sweep: Sweep, setting: Setting) -> tuple[dict[str, Any], list[Any]]:
    """Return what is not swept: world and training, then fields that a method may lack (None)."""
    source = seedless(setting.first.config["source"])
    world = {name: value for name, value in source.items() if name not in sweep.free}
    starts = [name for name in ("d_sae", "scale_init", "bias_init") if name not in sweep.free]
    return {**world, "fit": setting.first.config.get("fit")}, [
        setting.setup.trainer.get(name) for name in starts
    ]


def lines_of(sweep: Sweep, settings: Sequence[Setting]) -> dict[Line, list[Setting]]:
    """Return the settings of each line by the swept quantity; methods in the order of tables."""
    lines: dict[Line, list[Setting]] = {}
    for setting in in_order(settings):
        value = setting.setup.trainer.get(sweep.line) if sweep.line else None
        lines.setdefault((setting.method, value), []).append(setting)
    return {
        line: sorted(members, key=lambda setting: sweep.x(setting) or 0.0)
        for line, members in lines.items()
    }


def _panel(
    axes: Any,
    sweep: Sweep,
    settings: Sequence[Setting],
    score: str,
    look_by_line: Mapping[Line, Look],
) -> None:
    lines = lines_of(sweep, settings)
    for n_above, (line, members) in zip(reversed(range(len(lines))), lines.items(), strict=True):
        points = [
            (sweep.x(setting), estimate)
            for setting in members
            if (estimate := setting.estimate(score)) is not None
        ]
        _line(axes, points, look_by_line[line], 1 + 0.4 * n_above)
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
    axes: Any, points: Sequence[tuple[float | None, Estimate]], look: Look, width: float
) -> None:
    """Draw a line of points with its band, and a level line for each point without an x."""
    for level in (estimate for x, estimate in points if x is None):
        axes.axhline(level.mean, color=look.colour, linestyle=look.dash, linewidth=width)
        if level.low is not None and level.high is not None:
            axes.axhspan(level.low, level.high, color=look.colour, **BAND)
    swept = [(x, estimate) for x, estimate in points if x is not None]
    if swept:
        means = [(x, estimate.mean) for x, estimate in swept]
        widths = {"linewidth": width, "markersize": 2.4 + width}
        axes.plot(*zip(*means, strict=True), **line_style(look), **widths)
    ends = [(x, estimate.low, estimate.high) for x, estimate in swept if estimate.low is not None]
    if ends:
        axes.fill_between(*zip(*ends, strict=True), color=look.colour, **BAND)


def _chance(axes: Any, sweep: Sweep, settings: Sequence[Setting], score: str) -> None:
    """Draw chance, the mean over methods: their random directions differ in the draw alone."""
    by_x: dict[float, list[float]] = {}
    for setting in settings:
        x, value = sweep.x(setting), setting.mean(score)
        if x is not None and value is not None:
            by_x.setdefault(x, []).append(value)
    if by_x:
        points = [(x, fmean(by_x[x])) for x in sorted(by_x)]
        axes.plot(*zip(*points, strict=True), color=GREY, linestyle=":")


def _log_axis(axes: Any, values: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic; its ticks are the swept values that have room."""
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


def _handles(
    sweep: Sweep, look_by_line: Mapping[Line, Look], abouts: Mapping[str, About]
) -> list[Any]:
    handles = []
    for (method, value), look in look_by_line.items():
        field = f", {sweep.line.replace('_', ' ')} {value}" if sweep.line and value else ""
        handles.append(line_handle(f"{abouts[method].label}{field}", look))
    return [*handles, handle("chance", GREY, linestyle=":")]


def _line_looks(lines: Iterable[Line], abouts: Mapping[str, About]) -> dict[Line, Look]:
    """Return the look of each line; the lines of one method differ in their dashes."""
    lines = list(lines)
    return dict(zip(lines, series([method for method, _ in lines], abouts), strict=True))


def _facet_of(sweep: Sweep, setting: Setting) -> Any:
    """Return the value that decides in which column of panels a setting is drawn."""
    return setting.setup.source.get(sweep.facet) if sweep.facet else None


FIGURES = tuple(
    Figure(
        NAME=sweep.name,
        COMMAND=f"python -m benchmarks.run experiment={sweep.name}",
        draw=partial(draw, sweep),
    )
    for sweep in SWEEPS
)
