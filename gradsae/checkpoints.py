"""Trained SAEs by content: found if they were trained before, trained and kept if not.

The id of a checkpoint hashes what shaped the SAE (data, method, steps, seeds) and nothing of what
is measured later, so a new metric is scored on old checkpoints.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, final

import torch

from gradsae import sae as saes
from gradsae.errors import UserError
from gradsae.fit import FitSettings, Training, fit
from gradsae.interfaces import Source, Trainer
from gradsae.records import content_id
from gradsae.sae import SAE
from gradsae.seeds import Seeds, make_generator

VERSION = 1
"""Goes up when the same settings would give another SAE; older checkpoints are then not found."""

Log = Callable[[int, dict[str, float]], None]


@final
@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    id: str
    sae: SAE
    seconds: float
    """Wall time of the training, whenever it was done."""
    curve: dict[str, list[Any]]
    """`step` and the logged parts of the loss."""
    found: bool
    """True if it was there already."""


def plain(value: Any) -> Any:
    """Return a component as JSON values; one inside another also says its class."""
    if is_dataclass(value):
        return {field.name: _inner(getattr(value, field.name)) for field in fields(value)}
    return _inner(value)


def _inner(value: Any) -> Any:
    if is_dataclass(value):
        return {"class": type(value).__name__, **plain(value)}
    if isinstance(value, Mapping):
        return {key: _inner(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_inner(item) for item in value]
    return value


def trainer_config(trainer: Trainer) -> dict[str, Any]:
    """Return the name and hyperparameters of a trainer."""
    return {"name": trainer.name, **plain(trainer)}


def checkpoint_id(source: Source, trainer: Trainer, settings: FitSettings, seeds: Seeds) -> str:
    """Return the id of the SAE that these settings give; nothing is built or loaded for it."""
    return content_id(
        {
            "version": VERSION,
            "source": {"name": source.name, **source.identity()},
            "trainer": trainer_config(trainer),
            "fit": shape_of(settings),
            "seeds": {"data": seeds.data, "init": seeds.init},
        }
    )


def shape_of(settings: FitSettings) -> dict[str, int]:
    """Return the settings that shape an SAE (not how often it is logged or saved)."""
    return {name: getattr(settings, name) for name in ("steps", "batch_size", "init_rows")}


def get(
    source: Source,
    trainer: Trainer,
    settings: FitSettings,
    seeds: Seeds,
    *,
    root: Path,
    device: torch.device,
    log: Log,
    force: bool = False,
) -> Checkpoint:
    """Return the trained SAE on `device`, from `root`/checkpoints or trained now.

    A training that was cut off goes on from its last saved state in `root`/training.
    """
    name = checkpoint_id(source, trainer, settings, seeds)
    folder = root / "checkpoints" / name
    if folder.exists() and not force:
        return _found(folder, name, device)
    source.d_in()  # a harvest, where one is due, is not this method's time
    started = time.perf_counter()
    sample = source.stream(settings.init_rows, seeds.data, torch.device("cpu")).next()
    built = trainer.build(sample.float(), make_generator(seeds.init, "init"))
    training = Training(trainer, built.to(device))
    curve: dict[str, list[Any]] = {"step": []}

    def keep(_: int, step: int, parts: dict[str, float]) -> None:
        curve["step"].append(step)
        for part, value in parts.items():
            curve.setdefault(part, []).append(value)
        log(step, parts)

    fit(
        [training],
        source.stream(settings.batch_size, seeds.data, device),
        settings,
        log=keep,
        state_dir=root / "training" / name,
    )
    seconds = time.perf_counter() - started
    extra = {"id": name, "seconds": seconds, "curve": curve, "trainer": trainer_config(trainer)}
    _write(training.sae, folder, extra)
    return Checkpoint(id=name, sae=training.sae, seconds=seconds, curve=curve, found=False)


def _found(folder: Path, name: str, device: torch.device) -> Checkpoint:
    extra = saes.read_meta(folder)["extra"]
    if extra.get("id") != name:
        raise UserError(
            f"{folder}: this checkpoint says it is {extra.get('id')!r}; delete it to retrain"
        )
    sae = saes.load(folder, device)
    return Checkpoint(id=name, sae=sae, seconds=extra["seconds"], curve=extra["curve"], found=True)


def _write(sae: SAE, folder: Path, extra: dict[str, Any]) -> None:
    """Make the folder whole or not at all."""
    fresh = folder.with_suffix(".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        sae.save(fresh, extra)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.replace(folder)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise UserError(f"cannot write checkpoint {folder}: {error.strerror or error}") from error
