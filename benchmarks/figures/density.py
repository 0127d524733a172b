"""Draw how often latents are active: a histogram of the logarithm of their rates."""

from collections.abc import Sequence
from typing import Any

from benchmarks.figures.by_world import Panel, draw_by_world
from benchmarks.figures.drawing import Drawing
from benchmarks.results.settings import Setting
from benchmarks.results.worlds import World

NAME = "density"
COMMAND = "python -m benchmarks.run -m trainer=topk,l1,gba seed=0,1,2"
SERIES = "sparsity/density"


def draw(settings: Sequence[Setting]) -> Drawing | None:
    panel = Panel(x="rate (share of activations)", y="share of latents", line=_line, finish=_finish)
    return draw_by_world(
        *(settings, SERIES, [panel], []),
        title="Rates of latents.",
        text="Share of latents by their rate, the share of held-out activations on which a latent "
        "is active; all seeds pooled. Dead latents are left out (see the score `sparsity/dead`).",
    )


def _line(axes: Any, setting: Setting, style: dict[str, Any]) -> bool:
    counts = _counts(setting)
    total = sum(counts.values())
    if not total:
        return False
    rates = sorted(counts)
    shares = [counts[rate] / total for rate in rates]
    axes.plot(rates, shares, drawstyle="steps-mid", linewidth=0.9, **style)
    return True


def _finish(axes: Any, world: World) -> None:
    used = [rate for setting in world.settings for rate, count in _counts(setting).items() if count]
    axes.set_ylim(bottom=0)
    axes.set_xlim(min(used, default=-1) - 0.5, min(0.1, max(used, default=-1) + 0.5))
    axes.xaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")


def _counts(setting: Setting) -> dict[float, float]:
    """Return the number of latents, over all seeds, by the decimal logarithm of their rate."""
    counts: dict[float, float] = {}
    for run in setting.series(SERIES):
        for rate, count in zip(run["log10_rate"], run["count"], strict=True):
            counts[rate] = counts.get(rate, 0) + count
    return counts
