"""Draw the estimates of single latents against the true effect of their ablation."""

from collections.abc import Sequence
from typing import Any

from benchmarks.figures.choice import panel_heading, pick_sae_per_site, with_series
from benchmarks.figures.drawing import Drawing, describe_intervals, omitted_note
from benchmarks.figures.looks import looks
from benchmarks.figures.style import PAGE, new_figure, zero_line
from benchmarks.results.rows import variants
from benchmarks.results.settings import Setting, variants_of

NAME = "agreement"
COMMAND = "python -m benchmarks.run task=influence source=lm_layer trainer=topk"
SERIES = "influence/scatter"
NOT_ESTIMATES = {"prompt", "latent", "effect"}
MAX_ROWS = 5
MAX_COLUMNS = 5
MAIN = ("gradient", "activation")
"""Families that are drawn if there are more estimators than columns."""


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = with_series(settings, "influence", SERIES)
    shown = choose(settings)
    if not shown:
        return None
    names = _estimators(shown)
    abouts = variants_of(shown, names)
    look_by_name = looks(abouts)
    figure, grid = new_figure(
        *(len(shown), len(names)),
        width=PAGE,
        height=0.5 + 1.4 * len(shown),
        sharex=True,
        sharey="col",
    )
    for row, setting in zip(grid, shown, strict=True):
        for axes, name in zip(row, names, strict=True):
            _panel(axes, setting, name, look_by_name[name].colour)
            axes.set_title(_score(setting, name), fontsize=6)
        title = panel_heading(setting).replace(", ", "\n", 1)
        row[0].set_ylabel(f"{title}\nestimate", fontsize=6.5)
    for axes, name in zip(grid[0], names, strict=True):
        lines = [abouts[name].label, axes.get_title()]
        axes.set_title("\n".join(line for line in lines if line), fontsize=6.5)
    figure.supxlabel("true effect of ablation (nats)", fontsize=8)
    symlog(grid[0, 0], "x", [x for setting in shown for x, _ in _points(setting, names[0])])
    for axes, name in zip(grid[0], names, strict=True):
        symlog(axes, "y", [y for setting in shown for _, y in _points(setting, name)])
    return Drawing(
        figure=figure,
        title="Estimated influence against the true effect.",
        text="One dot per active latent of a prompt (a random sample of them; all prompts in one "
        "panel). True effect: the target's log-probability with the latent minus without it, the "
        "latent ablated at all positions, the SAE's error held fixed. An estimate is in the units "
        "of its estimator. The panels of a column share their axes, which are linear around zero "
        "and logarithmic beyond. \u03c1: Spearman correlation, mean over prompts; "
        f"{describe_intervals(shown, 'influence/spearman/grad_times_act', mark='in brackets')}."
        f"{omitted_note(len(shown), len(settings))}",
        settings=shown,
    )


def choose(settings: Sequence[Setting]) -> list[Setting]:
    """Return one SAE per site; of more than `MAX_ROWS`, those with the most estimators."""
    by_site = pick_sae_per_site(settings)
    rows = sorted(by_site, key=lambda setting: -len(variants(setting)))[:MAX_ROWS]
    return [setting for setting in by_site if setting in rows]


def _estimators(settings: Sequence[Setting]) -> list[str]:
    """Return the estimators in the order of tables; if they are too many, those of `MAIN`."""
    columns = {name for setting in settings for run in setting.series(SERIES) for name in run}
    abouts = variants_of(settings, sorted(columns - NOT_ESTIMATES))
    if len(abouts) > MAX_COLUMNS:
        abouts = {name: about for name, about in abouts.items() if about.family in MAIN}
    return list(abouts)[:MAX_COLUMNS]


def _points(setting: Setting, name: str) -> list[tuple[float, float]]:
    """Return true effect and estimate of each latent, of the first seed that has both."""
    runs = [run for run in setting.series(SERIES) if name in run]
    pairs = [pair for run in runs[:1] for pair in zip(run["effect"], run[name], strict=True)]
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def _panel(axes: Any, setting: Setting, name: str, colour: str) -> None:
    points = _points(setting, name)
    if points:
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=3, color=colour, alpha=0.3, linewidths=0, rasterized=True)
    else:  # the record lacks this estimator
        axes.set_axis_off()
    zero_line(axes)
    zero_line(axes, vertical=True)


def symlog(axes: Any, which: str, values: Sequence[float]) -> None:
    """Make the axis "x" or "y" linear up to the median size of `values`, logarithmic beyond.

    Ticks stand at 0 and at the last power of 10 on each side.
    """
    from matplotlib.ticker import NullLocator

    sizes = sorted(abs(value) for value in values if value)
    if not sizes:
        return
    threshold = max(sizes[len(sizes) // 2], sizes[-1] / 1e4)
    getattr(axes, f"set_{which}scale")("symlog", linthresh=threshold, linscale=0.7)
    low, high = min(values), max(values)
    limits = (1.5 * low if low < 0 else -0.2 * threshold, 1.5 * max(high, threshold))
    getattr(axes, f"set_{which}lim")(*limits)
    ends = [(-1, -low), (1, high)]
    ticks = [0.0, *(sign * 10.0 ** _floor_log10(end) for sign, end in ends if end > threshold)]
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks(sorted(ticks))
    axis.set_minor_locator(NullLocator())


def _floor_log10(value: float) -> int:
    from math import floor, log10

    return floor(log10(value))


def _score(setting: Setting, name: str) -> str:
    estimate = setting.estimate(f"influence/spearman/{name}")
    if estimate is None:
        return ""
    ends = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"\u03c1 {estimate.mean:.2f}{ends}".replace("-0.00", "0.00").replace("-", "\u2212")
