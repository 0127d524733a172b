"""What `${name:...}` means in conf/ besides OmegaConf's own resolvers."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gradsae.errors import UserError

ROOT = (Path(__file__).resolve().parent.parent / "conf").resolve().parent
"""Where conf/ lies, from which a file named in it is found."""


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
    """Return the places in a method's grid that were chosen for a world.

    `chosen.world` names the world, `chosen.file` the choices (world -> method -> places), written
    by `python -m benchmarks.regret --choose`. None (all places) where the config has no `chosen`.
    Raises UserError for an unknown world.
    """
    chosen = OmegaConf.select(_root_, "chosen")
    if chosen is None:
        return None
    worlds = json.loads((ROOT / chosen.file).read_text(encoding="utf-8"))
    if chosen.world not in worlds:
        known = ", ".join(worlds)
        raise UserError(f"{chosen.file}: no choice for {chosen.world!r}; it has {known}")
    return worlds[chosen.world].get(method)
