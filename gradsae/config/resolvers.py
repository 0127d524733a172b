"""What `${name:...}` means in conf/ besides OmegaConf's own resolvers."""

import json
import math
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from gradsae import checks
from gradsae.errors import UserError

ROOT = (Path(__file__).resolve().parent.parent / "conf").resolve().parent
"""Where conf/ lies, from which a file named in it is found."""


def register() -> None:
    OmegaConf.register_new_resolver("calibrated", calibrated, replace=True)
    OmegaConf.register_new_resolver("latents", latents, replace=True)
    OmegaConf.register_new_resolver("regret_choice", regret_choice, replace=True)


def calibrated(method: str, field: str, otherwise: Any, *, _root_: DictConfig) -> Any:
    """Return the value of a method's field at the place of `calibration=...`.

    A table holds one value, one for each `k`, or under `by_rows` one for each length of training in
    rows; of these the nearest on a log scale counts. `otherwise` where it has none for the method.
    Raises UserError if the table has no value for this k.
    """
    table = OmegaConf.select(_root_, f"calibration.{method}") or {}
    value = table.get(field, otherwise)
    if not isinstance(value, DictConfig):
        return value
    if "by_rows" in value:
        n_rows = max(1, _root_.fit.steps * _root_.fit.batch_size)
        return value.by_rows[min(value.by_rows, key=lambda rows: abs(math.log(rows / n_rows)))]
    if _root_.k not in value:
        ks = ", ".join(str(k) for k in value)
        raise UserError(
            f"trainer.{field}: not known for k={_root_.k}, only for {ks}; set trainer.{field}"
        )
    return value[_root_.k]


def latents(otherwise: int, *, _root_: DictConfig) -> int:
    """Return the number of latents: `width` times that of the source's features, at least 1.

    `otherwise` where the config has no `width`. Raises UserError for a width that is no number
    above 0, and for a source whose features are not known.
    """
    width = OmegaConf.select(_root_, "width")
    if width is None:
        return otherwise
    checks.number("width", width, above=0)
    return max(1, round(width * _n_features(_root_, width)))


def _n_features(root: DictConfig, width: float | int) -> int:
    """Return the number of true features of the config's source, which is built if need be."""
    n = OmegaConf.select(root, "source.n_features")
    if isinstance(n, int):
        return n
    source = instantiate(OmegaConf.select(root, "source"), _convert_="object")
    if not hasattr(source, "features"):
        raise UserError(f"width={width}: source {source.name} has no known features; set d_sae")
    return len(source.features())


def regret_choice(method: str, *, _root_: DictConfig) -> list[int] | None:
    """Return the places in a method's grid that were chosen for a world.

    `chosen.world` names the world, `chosen.file` the choices (world -> method -> places), written
    by `python -m benchmarks.regret --choose`. None (all places) where the config has no `chosen`.
    The file is made from records, so nothing but whole numbers of it reaches the config.
    Raises UserError for an unknown world, and for a file that holds anything else.
    """
    chosen = OmegaConf.select(_root_, "chosen")
    if chosen is None:
        return None
    worlds = _choices(ROOT / chosen.file, chosen.file)
    if chosen.world not in worlds:
        names = ", ".join(worlds)
        raise UserError(f"{chosen.file}: no choice for {chosen.world!r}; it has {names}")
    return worlds[chosen.world].get(method)


def _choices(path: Path, name: str) -> dict[str, dict[str, list[int]]]:
    """Return the places in the grids by world and method; UserError if the file holds any else."""
    try:
        worlds = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: {error}") from error
    if not _are_choices(worlds):
        raise UserError(
            f"{name}: it must hold, by world and method, lists of places in the grid, as "
            f"`python -m benchmarks.regret --choose` writes them"
        )
    return worlds


def _are_choices(worlds: Any) -> bool:
    return isinstance(worlds, dict) and all(
        isinstance(methods, dict)
        and all(
            isinstance(places, list) and all(type(place) is int for place in places)
            for places in methods.values()
        )
        for methods in worlds.values()
    )
