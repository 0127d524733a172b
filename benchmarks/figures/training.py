"""Draw training curves: error, l0 and dead latents against the step."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.figures.by_world import Panel, draw_by_world
from benchmarks.figures.drawing import Drawing
from benchmarks.figures.style import plain_log
from benchmarks.results.settings import Setting
from benchmarks.results.worlds import World

NAME = "training"
COMMAND = "python -m benchmarks.run -m trainer=topk,l1,gba seed=0,1,2"
SERIES = "training/curve"
SHOWN = {
    "fvu": ("FVU", "fraction of variance unexplained (FVU)"),
    "l0": ("L0", "mean number of active latents (L0)"),
    "dead": ("dead latents", "share of dead latents"),
}


def draw(settings: Sequence[Setting]) -> Drawing | None:
    columns = {column for setting in settings for run in setting.series(SERIES) for column in run}
    shown = [column for column in SHOWN if column in columns]
    panels = [
        Panel(
            x="step",
            y=SHOWN[column][0],
            line=partial(_curve, column),
            finish=partial(_finish, column),
        )
        for column in shown
    ]
    quantities = ", ".join(SHOWN[column][1] for column in shown)
    return draw_by_world(
        *(settings, SERIES, panels, []),
        title="Training curves.",
        text=f"On training batches, against the step: {quantities}. Lines: mean over "
        "seeds; bands: lowest to highest seed.",
    )


def _finish(column: str, axes: Any, world: World) -> None:
    if column != "dead":
        plain_log(axes, "y")


def _curve(column: str, axes: Any, setting: Setting, style: dict[str, Any]) -> bool:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    runs = [run for run in setting.series(SERIES) if {"step", column} <= run.keys()]
    runs = [run for run in runs if run["step"] == runs[0]["step"]]
    if not runs:
        return False
    step = runs[0]["step"]
    values = np.array([[np.nan if v is None else v for v in run[column]] for run in runs])
    axes.plot(step, values.mean(0), linewidth=1, **style)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if len(values) > 1:
        low, high = values.min(0), values.max(0)
        axes.fill_between(step, low, high, color=style["color"], alpha=0.15, linewidth=0)
    return True
