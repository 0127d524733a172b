"""Draw F1 and MCC against l0 on worlds of trees: the scores of published SynthSAEBench tables."""

from collections.abc import Sequence
from typing import Any

from benchmarks.figures.against_l0 import draw_against_l0
from benchmarks.figures.drawing import Drawing, describe_intervals
from benchmarks.figures.style import plain_log
from benchmarks.results.settings import Setting
from benchmarks.results.worlds import World, make_worlds

NAME = "f1_l0"
COMMAND = "python -m benchmarks.run experiment=f1_against_l0"
SHOWN = ("detection/f1", "latents/f1", "recovery/mcc")
EXPERIMENT = "f1_against_l0"
EXPERIMENTS = ("known_features", EXPERIMENT)
MIN_SPARSITIES = 3
"""A world has a panel from so many settings of one method on."""


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting
        for setting in settings
        if setting.task == "recovery"
        and setting.setup.experiment in EXPERIMENTS
        and is_shown(setting)
        and setting.mean("latents/f1") is not None
    ]
    worlds = [world for world in _worlds(settings) if _n_sparsities(world) >= MIN_SPARSITIES]
    if not worlds:
        return None
    shown = [setting for world in worlds for setting in world.settings]
    headers = {score: shown[0].score(score).header for score in SHOWN}
    return draw_against_l0(
        *(worlds, headers, _finish),
        row=2.2,
        share={"sharex": "row"},
        title="Detection of known features against l0.",
        text="F1 over features (each feature's matched latent), F1 over latents (each latent's "
        "nearest feature, the definition of the published SynthSAEBench table) and MCC, against "
        "the mean number of active latents (l0); higher is better. A line joins the settings of a "
        f"method. Markers: mean over seeds; {describe_intervals(shown, SHOWN[0])}.",
    )


def is_shown(setting: Setting) -> bool:
    """Return True for contenders, oracles and the ceiling, False for any other control."""
    return setting.about.family != "control"


def _finish(grid: Any) -> None:
    for row in grid:
        plain_log(row[0], "x")  # shared
        for axes in row:
            axes.set_xlabel("L0 (active latents per activation)")
            axes.set_ylim(-0.03, 1.03)


def _worlds(settings: Sequence[Setting]) -> list[World]:
    """Return worlds in which all SAEs have one width and one training, so that curves compare."""
    alike: dict[str, list[Setting]] = {}
    for setting in settings:
        size = setting.setup.trainer.get("d_sae")
        key = f"{size if setting.method != 'ceiling' else ''} {setting.first.config.get('fit')}"
        alike.setdefault(key, []).append(setting)
    return [world for group in alike.values() for world in make_worlds(group)]


def _n_sparsities(world: World) -> int:
    """Return the largest number of settings of one method."""
    methods = {setting.method for setting in world.settings}
    return max(sum(setting.method == method for setting in world.settings) for method in methods)
