"""What a method loses at which sparsity, on the layers of a language model."""

from collections.abc import Sequence
from typing import Any

from benchmarks.figures.against_l0 import L0, draw_against_l0
from benchmarks.figures.drawing import Drawing, bars
from benchmarks.figures.style import plain_log
from benchmarks.results.settings import Setting
from benchmarks.results.worlds import World, make_worlds

NAME = "frontier"
COMMAND = "python -m benchmarks.run experiment=lm_frontier"
PANELS = {
    "reconstruction/fvu": "FVU",
    "lm/ce_recovered": "CE recovered",
    "sparsity/dead": "dead latents",
}


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [c for c in settings if c.task == "recovery" and c.site and c.mean(L0) is not None]
    if not settings:
        return None
    worlds = make_worlds(settings)
    worlds = [world for world in worlds if _is_swept(world)] or worlds
    settings = [setting for world in worlds for setting in world.settings]
    return draw_against_l0(
        *(worlds, PANELS, _finish),
        row=1.38,
        share={"sharex": "row", "sharey": "col"},
        title="Reconstruction against sparsity.",
        text="Fraction of variance unexplained (FVU, lower is better), cross-entropy (CE) "
        "recovered (1: that of the untouched model, 0: that with zeros in place of the activation) "
        "and share of latents that never fired, against the mean number of active latents, on "
        "held-out tokens without outliers; one marker per setting of a method, joined along its "
        "sparsity; each row has its own horizontal axis. "
        f"Markers: mean over seeds; {bars(settings, 'reconstruction/fvu')}.",
    )


def _finish(grid: Any) -> None:
    for first, *_ in grid:
        low, high = first.get_xlim()
        if high > 4 * low:
            plain_log(first, "x")  # shared
    for axes in grid[-1]:
        axes.set_xlabel("L0, active latents per token")


def _is_swept(world: World) -> bool:
    """True where some method has two settings, that is, where there is a line to draw."""
    methods = [setting.method for setting in world.settings]
    return len(set(methods)) < len(methods)
