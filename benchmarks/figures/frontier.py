"""Draw what SAEs of language models lose against l0."""

from collections.abc import Sequence
from typing import Any

from benchmarks.figures.against_l0 import L0, draw_against_l0
from benchmarks.figures.choice import sorted_worlds
from benchmarks.figures.drawing import Drawing, describe_intervals
from benchmarks.figures.style import plain_log
from benchmarks.results.settings import Setting
from benchmarks.results.worlds import World

NAME = "frontier"
COMMAND = "python -m benchmarks.run experiment=lm_frontier"
PANELS = {
    "reconstruction/fvu": "FVU",
    "lm/ce_recovered": "CE recovered",
    "sparsity/dead": "dead latents",
}


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting
        for setting in settings
        if setting.task == "recovery" and setting.site and setting.mean(L0) is not None
    ]
    if not settings:
        return None
    worlds = sorted_worlds(settings)
    worlds = [world for world in worlds if _is_swept(world)] or worlds
    settings = [setting for world in worlds for setting in world.settings]
    return draw_against_l0(
        *(worlds, PANELS, _finish),
        row=1.38,
        share={"sharex": "row", "sharey": "col"},
        title="Reconstruction against l0.",
        text="Fraction of variance unexplained (FVU, lower is better), cross-entropy (CE) "
        "recovered (1: as in the unedited model, 0: as with zeros in place of the activation) and "
        "share of dead latents, against the mean number of active latents (l0), on held-out "
        "tokens without outliers. A line joins the settings of a method. Each row has its own "
        "horizontal axis. "
        f"Markers: mean over seeds; {describe_intervals(settings, 'reconstruction/fvu')}.",
    )


def _finish(grid: Any) -> None:
    for first, *_ in grid:
        low, high = first.get_xlim()
        if high > 4 * low:
            plain_log(first, "x")  # shared
    plain_log(grid[0, 0], "y")  # shared
    for axes in grid[-1]:
        axes.set_xlabel("L0 (active latents per activation)")


def _is_swept(world: World) -> bool:
    """Return True if some method has two settings, so that there is a line to draw."""
    methods = [setting.method for setting in world.settings]
    return len(set(methods)) < len(methods)
