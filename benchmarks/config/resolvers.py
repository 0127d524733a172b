"""What `${name:...}` means in conf/ besides OmegaConf's own resolvers."""

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from benchmarks.places import ROOT
from gradsae.errors import UserError

CHOICE = ROOT / "results" / "regret_choice.json"
"""Written by `python -m benchmarks.regret --choose`: world -> method -> places in its grid."""


def register() -> None:
    OmegaConf.register_new_resolver("calibrated", calibrated, replace=True)
    OmegaConf.register_new_resolver("regret_choice", regret_choice, replace=True)


def calibrated(method: str, field: str, otherwise: Any, *, _root_: DictConfig) -> Any:
    """Return the value of a method's field at the place of `calibration=...`.

    A table holds one value, or one for each `k`; `otherwise` where it has none for the method.
    Raises UserError if the table has no value for this k.
    """
    table = OmegaConf.select(_root_, f"calibration.{method}") or {}
    value = table.get(field, otherwise)
    if not isinstance(value, DictConfig):
        return value
    if _root_.k not in value:
        known = ", ".join(str(k) for k in value)
        raise UserError(
            f"trainer.{field}: not known for k={_root_.k}, only for {known}; set trainer.{field}"
        )
    return value[_root_.k]


def regret_choice(method: str, *, _root_: DictConfig) -> list[int] | None:
    """Return the places in a method's grid that were chosen for the world named by `chosen`.

    None (all of them) where the config has no `chosen`. Raises UserError for an unknown world.
    """
    world = OmegaConf.select(_root_, "chosen")
    if world is None:
        return None
    worlds = json.loads(CHOICE.read_text(encoding="utf-8"))
    if world not in worlds:
        raise UserError(f"{CHOICE.name}: no choice for {world!r}; it has {', '.join(worlds)}")
    return worlds[world].get(method)
