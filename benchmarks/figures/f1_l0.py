"""F1 and MCC against sparsity on worlds of trees, the axes of published SynthSAEBench tables."""

from collections.abc import Sequence
from typing import Any

from benchmarks.figures.against_l0 import draw_against_l0
from benchmarks.figures.drawing import Drawing, bars
from benchmarks.figures.style import plain_log
from benchmarks.results.settings import Setting
from benchmarks.results.worlds import World, make_worlds

NAME = "f1_l0"
COMMAND = "python -m benchmarks.run experiment=f1_against_l0"
SHOWN = ("detection/f1", "latents/f1", "recovery/mcc")
OWN = ("f1_against_l0",)
EXPERIMENTS = ("known_features", *OWN)
LEAST = 3
"""Fewest sparsities that make a curve worth a panel."""


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting
        for setting in settings
        if setting.task == "recovery"
        and setting.setup.experiment in EXPERIMENTS
        and is_shown(setting)
        and setting.mean("latents/f1") is not None
    ]
    worlds = [world for world in _worlds(settings) if _n_sparsities(world) >= LEAST]
    if not worlds:
        return None
    shown = [setting for world in worlds for setting in world.settings]
    words = {score: shown[0].score(score).header for score in SHOWN}
    return draw_against_l0(
        *(worlds, words, _finish),
        row=2.2,
        share={"sharex": "row"},
        title="Known features found, against sparsity.",
        text="Against the mean number of open latents: F1 over features (each feature's own "
        "latent), F1 over latents (each latent's nearest feature, the definition of the published "
        "SynthSAEBench table) and MCC; higher is better. A method's settings are joined along "
        f"their sparsity. Markers: mean over seeds; {bars(shown, SHOWN[0])}.",
    )


def is_shown(setting: Setting) -> bool:
    """Return whether a method is drawn: contenders, oracles and the ceiling, no other control."""
    return setting.about.family != "control"


def _finish(grid: Any) -> None:
    for row in grid:
        plain_log(row[0], "x")  # shared
        for axes in row:
            axes.set_xlabel("open latents per row")
            axes.set_ylim(-0.03, 1.03)


def _worlds(settings: Sequence[Setting]) -> list[World]:
    """Worlds whose SAEs are equally wide and equally trained; only those share a curve."""
    alike: dict[str, list[Setting]] = {}
    for setting in settings:
        size = setting.setup.trainer.get("d_sae")
        key = f"{size if setting.method != 'ceiling' else ''} {setting.first.config.get('fit')}"
        alike.setdefault(key, []).append(setting)
    return [world for group in alike.values() for world in make_worlds(group)]


def _n_sparsities(world: World) -> int:
    methods = {setting.method for setting in world.settings}
    return max(sum(setting.method == method for setting in world.settings) for method in methods)
