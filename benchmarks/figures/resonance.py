"""Draw a map of resonance: which target rates p recover features of rate f in d dimensions."""

from collections.abc import Sequence
from math import log2
from typing import Any

from benchmarks.figures.drawing import Drawing
from benchmarks.figures.looks import VERMILLION
from benchmarks.figures.style import COLUMN, handle, legend_below, new_figure
from benchmarks.results.settings import Estimate, Setting

NAME = "resonance"
COMMAND = "python -m benchmarks.run experiment=resonance"
SHOWN = ("recovery/frr_0.9", "recovery/mcc")

Place = tuple[int, float]
"""Dimensions and target rate: the place of a setting on the map."""


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting
        for setting in settings
        if setting.task == "recovery" and setting.setup.experiment == NAME
    ]
    if not settings:
        return None
    widths = sorted({place(setting)[0] for setting in settings})
    rates = sorted({place(setting)[1] for setting in settings})
    figure, grid = new_figure(
        len(SHOWN), 1, width=COLUMN, height=0.9 + len(SHOWN) * (0.35 + 0.36 * len(widths))
    )
    for axes, score in zip(grid[:, 0], SHOWN, strict=True):
        estimates = {
            place(setting): e for setting in settings if (e := setting.estimate(score)) is not None
        }
        chance = {
            place(setting): c for setting in settings if (c := setting.mean(f"{score}/chance"))
        }
        _map(axes, estimates, chance, widths, rates)
        _band(axes, settings[0], widths, rates)
        axes.set_title(
            f"{settings[0].score(score).header}: mean, half the interval, chance", fontsize=7
        )
        axes.set_ylabel("dimensions d")
    grid[-1, 0].set_xlabel("target rate p, one group (BA)")
    legend_below(figure, [handle("ends of the theorem's band", VERMILLION)], 1)
    n, size = settings[0].setup.source.get("n_features"), settings[0].setup.source.get("l0")
    return Drawing(
        figure=figure,
        title="Resonance of the target rate.",
        text=f"BA with one target rate for all latents; {n} features, {size} of them active per "
        f"activation, so the rate of every feature is f = {size / n:.3g}. Feature recovery rate at "
        "a cosine of 0.9 and mean matched cosine (MCC). First line: the mean over seeds. Second "
        "line: half the width of its 95 % t interval and, after the bar, chance, the same score of "
        "random directions, which is high in few dimensions. Red: the ends of the paper's band "
        "with all constants 1, p = f and the smaller of sqrt(f) and f d.",
        settings=settings,
    )


def place(setting: Setting) -> Place:
    """Return where a setting stands on the map."""
    return setting.setup.source.get("width"), setting.setup.trainer.get("htf")


def upper_end(f: float, width: int) -> float:
    """Return the upper end of the target rates that the theorem admits, all constants 1.

    Our reading of Theorem 6.1 of Chen et al. 2025 (ICLR version) for rates f = Theta(1 / n).
    """
    return min(f**0.5, f * width)


def _map(
    axes: Any,
    estimates: dict[Place, Estimate],
    chance: dict[Place, float],
    widths: Sequence[int],
    rates: Sequence[float],
) -> None:
    import numpy as np
    from matplotlib import colormaps

    shades = colormaps["viridis"]
    values = np.full((len(widths), len(rates)), np.nan)
    for y, width in enumerate(widths):
        for x, rate in enumerate(rates):
            estimate = estimates.get((width, rate))
            if estimate is None:
                continue
            values[y, x] = estimate.mean
            note = f"{_half(estimate)} | {chance.get((width, rate), 0.0):.2f}"
            patch = {"facecolor": shades(estimate.mean), "linewidth": 0, "pad": 0.5}
            style = {"color": "white" if estimate.mean < 0.6 else "black", "bbox": patch}
            axes.text(x, y + 0.08, f"{estimate.mean:.2f}", ha="center", fontsize=7, **style)
            axes.text(x, y - 0.34, note, ha="center", fontsize=5.5, **style)
    axes.imshow(values, origin="lower", aspect="auto", cmap=shades, vmin=0, vmax=1)
    axes.set_yticks(range(len(widths)), widths)
    axes.set_xticks(range(len(rates)), [f"{rate:.2g}" for rate in rates])


def _half(estimate: Estimate) -> str:
    """Return half the width of the interval, as text."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"\u00b1{(estimate.high - estimate.low) / 2:.2f}"


def _band(axes: Any, setting: Setting, widths: Sequence[int], rates: Sequence[float]) -> None:
    """Draw the ends of the band in each row of the map."""
    n, size = setting.setup.source.get("n_features"), setting.setup.source.get("l0")
    for y, width in enumerate(widths):
        for rate in (size / n, upper_end(size / n, width)):
            x = column(rate, rates)
            if -0.5 <= x <= len(rates) - 0.5:
                axes.plot([x, x], [y - 0.5, y + 0.5], color=VERMILLION, linewidth=1.2)


def column(rate: float, rates: Sequence[float]) -> float:
    """Return the place of a rate among the columns, whose rates are in geometric progression."""
    if len(rates) < 2:
        return 0.0
    return log2(rate / rates[0]) / log2(rates[-1] / rates[0]) * (len(rates) - 1)
