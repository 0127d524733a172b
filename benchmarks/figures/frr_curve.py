"""Draw the feature recovery rate against the cosine from which a feature counts as recovered."""

from collections.abc import Sequence
from typing import Any

from benchmarks.figures.by_world import Panel, draw_by_world
from benchmarks.figures.drawing import Drawing
from benchmarks.figures.looks import GREY
from benchmarks.figures.style import handle
from benchmarks.results.settings import Setting
from benchmarks.results.worlds import World

NAME = "frr_curve"
COMMAND = "python -m benchmarks.run -m trainer=topk,l1,gba seed=0,1,2"
SERIES = "recovery/frr_curve"


def draw(settings: Sequence[Setting]) -> Drawing | None:
    labels = ("cosine threshold", "feature recovery rate")
    panel = Panel(x=labels[0], y=labels[1], line=_line, finish=_finish)
    return draw_by_world(
        *(settings, SERIES, [panel], [handle("chance", GREY, linestyle=":")]),
        title="Recovery rate by threshold.",
        text="Share of true features that some latent matches with a cosine above the threshold. "
        "Lines: mean over seeds; bands: lowest to highest seed; dotted grey: chance, as many "
        "random directions as the method has latents (one line for each number of latents).",
    )


def _line(axes: Any, setting: Setting, style: dict[str, Any]) -> bool:
    import numpy as np

    runs = [run for run in setting.series(SERIES) if {"tau", "frr"} <= run.keys()]
    runs = [run for run in runs if run["tau"] == runs[0]["tau"]]
    if not runs:
        return False
    tau, frr = np.array(runs[0]["tau"]), np.array([run["frr"] for run in runs])
    axes.plot(tau, frr.mean(0), **style)
    if len(frr) > 1:
        band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
        axes.fill_between(tau, frr.min(0), frr.max(0), **band)
    if "chance" in runs[0]:
        axes.plot(tau, runs[0]["chance"], color=GREY, linestyle=":", linewidth=1, zorder=1)
    return True


def _finish(axes: Any, world: World) -> None:
    axes.set_ylim(-0.03, 1.03)
