"""Estimated influence against the true effect of ablation, latent by latent."""

from collections.abc import Sequence
from typing import Any

from benchmarks.figures.drawing import Drawing, bars
from benchmarks.figures.estimators import one_sae_a_place, panel_title
from benchmarks.figures.looks import looks
from benchmarks.figures.style import PAGE, new_figure
from benchmarks.results.rows import variants
from benchmarks.results.settings import Setting, variants_of

NAME = "agreement"
COMMAND = "python -m benchmarks.run task=influence source=lm_layer trainer=topk"
SERIES = "influence/scatter"
NOT_ESTIMATES = {"prompt", "latent", "effect"}
MAX_ROWS = 5
MAX_COLUMNS = 5
MAIN = ("gradient", "activation")
"""Families that are drawn where there are more estimators than columns."""


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting for setting in settings if setting.task == "influence" and setting.series(SERIES)
    ]
    shown = choose(settings)
    if not shown:
        return None
    names = _estimators(shown)
    abouts = variants_of(shown, names)
    of = looks(abouts)
    figure, grid = new_figure(
        *(len(shown), len(names)),
        width=PAGE,
        height=0.5 + 1.4 * len(shown),
        sharex=True,
        sharey="col",
    )
    for row, setting in zip(grid, shown, strict=True):
        for axes, name in zip(row, names, strict=True):
            _panel(axes, setting, name, of[name].colour)
            axes.set_title(_score(setting, name), fontsize=6)
        title = panel_title(setting).replace(", ", "\n", 1)
        row[0].set_ylabel(f"{title}\nestimate", fontsize=6.5)
    for axes, name in zip(grid[0], names, strict=True):
        words = [abouts[name].label, axes.get_title()]
        axes.set_title("\n".join(word for word in words if word), fontsize=6.5)
    figure.supxlabel("true effect of ablation (nats)", fontsize=8)
    symlog(grid[0, 0], "x", [x for setting in shown for x, _ in _points(setting, names[0])])
    for axes, name in zip(grid[0], names, strict=True):
        symlog(axes, "y", [y for setting in shown for _, y in _points(setting, name)])
    few = f"; {len(shown)} of {len(settings)} settings" if len(shown) < len(settings) else ""
    return Drawing(
        figure=figure,
        title="Estimated influence against the true effect.",
        text="One dot per active latent of a prompt (a random sample). True effect: the target's "
        "log-probability with the latent minus without it, ablated at all positions with the SAE's "
        "error held fixed. Panels of a column share their axes, which are linear around zero and "
        "logarithmic beyond; estimates are in their own units. rho: Spearman "
        "correlation, mean over prompts, as on the board; "
        f"{bars(shown, 'influence/spearman/grad_times_act', mark='in brackets')}; the dots of all "
        f"prompts are drawn together{few}.",
        settings=shown,
    )


def choose(settings: Sequence[Setting]) -> list[Setting]:
    """One SAE at each depth, the same method at all of them where there is one.

    Of more than five those that were asked for the most estimates.
    """
    found = one_sae_a_place(settings)
    most = sorted(found, key=lambda setting: -len(variants(setting)))[:MAX_ROWS]
    return [setting for setting in found if setting in most]


def _estimators(settings: Sequence[Setting]) -> list[str]:
    """Return all of them, or the first of the families `MAIN`, in the order of tables."""
    found = {
        name for setting in settings for run in setting.series(SERIES) for name in run
    } - NOT_ESTIMATES
    abouts = variants_of(settings, sorted(found))
    if len(abouts) > MAX_COLUMNS:
        abouts = {name: about for name, about in abouts.items() if about.family in MAIN}
    return list(abouts)[:MAX_COLUMNS]


def _points(setting: Setting, name: str) -> list[tuple[float, float]]:
    """True effect and estimate of the latents of the first seed that has both."""
    runs = [run for run in setting.series(SERIES) if name in run]
    pairs = [pair for run in runs[:1] for pair in zip(run["effect"], run[name], strict=True)]
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def _panel(axes: Any, setting: Setting, name: str, colour: str) -> None:
    points = _points(setting, name)
    if points:
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=3, color=colour, alpha=0.3, linewidths=0, rasterized=True)
    else:  # not asked for
        axes.set_axis_off()
    axes.axhline(0, color="#BBBBBB", linewidth=0.5, zorder=0)
    axes.axvline(0, color="#BBBBBB", linewidth=0.5, zorder=0)


def symlog(axes: Any, which: str, values: Sequence[float]) -> None:
    """Linear up to the median size, logarithmic beyond; ticks at 0 and the last powers of 10."""
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
    found = setting.estimate(f"influence/spearman/{name}")
    if found is None:
        return ""
    ends = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"rho {found.mean:.2f}{ends}".replace("-0.00", "0.00")
