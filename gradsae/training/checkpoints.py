"""Trained SAEs by content: found if they were trained before, trained and kept if not.

The id of a checkpoint hashes what shaped the SAE (data, method, steps, seeds) and nothing of what
is measured later, so a new metric is scored on old checkpoints. Whether an SAE was trained alone
or beside others on one stream is not in it either: that changes no number.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from gradsae import checks
from gradsae.about import plain
from gradsae.errors import UserError
from gradsae.interfaces import Method, ModelSource, Source, Trainer
from gradsae.records.record import content_id
from gradsae.sae import model as saes
from gradsae.sae.dictionary import Dictionary
from gradsae.seeds import Seeds, make_generator
from gradsae.storage.files import writing
from gradsae.storage.lease import Lease, holding
from gradsae.training.fit import FitSettings, Log, Training, fit
from gradsae.training.sample import initial_sample
from gradsae.training.snapshots import Snapshots

VERSION = 1
"""Goes up when the same settings would give another SAE; older checkpoints are then not found."""


@final
@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    id: str
    sae: Dictionary
    seconds: float
    """Time of the training, whenever it was done: building the SAE, its own steps, and its share of
    what it had in common with SAEs trained beside it (drawing the batches)."""
    curve: dict[str, list[Any]]
    """`step` and the logged parts of the loss."""
    found: bool
    """True if it was there already."""


def trainer_config(method: Method[Any]) -> dict[str, Any]:
    """Return the name and hyperparameters of a method, and the content of the file it loads.

    It stands under `trainer` in records and ids, as in the first of them.
    """
    return {"name": method.name, **plain(method), **method.content()}


def checkpoint_id(source: Source, method: Method[Any], settings: FitSettings, seeds: Seeds) -> str:
    """Return the id of the SAE that these settings give; nothing is built or loaded for it."""
    return content_id(
        {
            "version": VERSION,
            "source": {"name": source.name, **source.identity()},
            "trainer": trainer_config(method),
            "fit": shape_of(settings),
            "seeds": {"data": seeds.data, "init": seeds.init},
        }
    )


def shape_of(settings: FitSettings) -> dict[str, Any]:
    """Return the settings that shape an SAE (not how often it is logged or saved).

    fp32 goes without saying, so ids from before there was another precision still hold.
    """
    shape = {name: getattr(settings, name) for name in ("steps", "batch_size", "init_rows")}
    return shape if settings.precision == "fp32" else {**shape, "precision": settings.precision}


@final
@dataclass(frozen=True, kw_only=True)
class Request:
    """An SAE that a cell asks for: what shapes it, where it is kept, where it is trained."""

    source: Source
    method: Method[Any]
    settings: FitSettings
    seeds: Seeds
    root: Path
    device: torch.device
    along: Sequence[int] = ()
    """Steps, rising and below `settings.steps`, after which the SAE is kept as it then is. They
    shape nothing, so they are not part of its id."""

    def id(self) -> str:
        return checkpoint_id(self.source, self.method, self.settings, self.seeds)

    def folder(self) -> Path:
        return self.root / "checkpoints" / self.id()

    def snapshots(self) -> Snapshots:
        """Return the SAEs on the way, which need not be there."""
        name = self.id()
        return Snapshots(folder=self.root / "along" / name, id=name, steps=self.along)

    def is_done(self) -> bool:
        """Whether the SAE is there, and those on the way that are asked for."""
        return self.folder().exists() and not self.snapshots().missing(self.settings.steps)

    def state_dir(self) -> Path:
        """Return where the state of its unfinished training is saved."""
        return self.root / "training" / self.id()

    def lease(self) -> Path:
        """Return the lease of whoever trains this SAE."""
        return self.root / "leases" / f"checkpoint-{self.id()}"


def get(
    request: Request, *, log: Callable[[int, dict[str, float]], None], force: bool = False
) -> Checkpoint:
    """Return the trained SAE on its device, from `root`/checkpoints or trained now.

    `log` gets the curve: as it grows, or whole if the SAE was there. A training that was cut off
    goes on from its last saved state in `root`/training. While another process trains the same
    SAE, wait for it. An SAE that is there without those on the way is trained anew, to the same
    weights.
    """
    if request.is_done() and not force:
        return _found(request, log)
    with holding(request.lease()):
        if request.is_done() and not force:
            return _found(request, log)
        (outcome,) = train([request], lambda _, step, parts: log(step, parts))
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _found(request: Request, log: Callable[[int, dict[str, float]], None]) -> Checkpoint:
    """Return the SAE that is there and log its curve; remove a state that a kill left behind."""
    checkpoint = _load(request.folder(), request)
    lease = Lease(request.lease())
    if request.state_dir().exists() and lease.take():
        shutil.rmtree(request.state_dir(), ignore_errors=True)
        lease.give_back()
    parts = {name: column for name, column in checkpoint.curve.items() if name != "step"}
    for i, step in enumerate(checkpoint.curve["step"]):
        log(step, {name: column[i] for name, column in parts.items()})
    return checkpoint


def train(group: Sequence[Request], log: Log) -> list[Checkpoint | Exception]:
    """Train some SAEs on one stream and keep each; where that fails, say why in its place.

    All of them have one source, one `settings`, one data seed and one device.
    """
    first = group[0]
    first.source.prepare()  # now, so that it is not timed as training
    started = time.perf_counter()
    seed = first.seeds.data
    sample = initial_sample(first.source, first.settings.init_rows, seed)
    common = (time.perf_counter() - started) / len(group)
    built = [_build(request, sample, common) for request in group]
    del sample
    places = [i for i, training in enumerate(built) if isinstance(training, Training)]
    trainings = [training for training in built if isinstance(training, Training)]
    if trainings:
        batches = first.source.stream(first.settings.batch_size, seed, first.device)

        def log_in_place(i: int, step: int, parts: dict[str, float]) -> None:
            log(places[i], step, parts)

        fit(trainings, batches, first.settings, log=log_in_place)
    return [_keep(*each) for each in zip(group, built, strict=True)]


class _Built(NamedTuple):
    """The SAE of a method that takes no step."""

    sae: Dictionary
    seconds: float


def _build(request: Request, sample: Tensor, common: float) -> Training | _Built | Exception:
    """Return an SAE before its first step; `common` is its share of the time spent for all."""
    started = time.perf_counter()
    try:
        sae = request.method.build(sample, make_generator(request.seeds.init, "init"))
        saes.check_rebuilt(sae, request.method.blank)
    except Exception as error:  # one method's error must not stop the others
        return error
    sae = sae.to(request.device)
    if not isinstance(request.method, Trainer):
        return _Built(sae, common + time.perf_counter() - started)
    state_dir = request.root / "training" / request.id()
    precision = request.settings.precision
    snapshots = request.snapshots() if request.along else None
    training = Training(request.method, sae, state_dir, precision=precision, snapshots=snapshots)
    training.seconds = common + time.perf_counter() - started
    return training


def _keep(request: Request, built: Training | _Built | Exception) -> Checkpoint | Exception:
    """Write the checkpoint of a finished SAE; only then its saved training state may go."""
    if isinstance(built, Exception):
        return built
    if isinstance(built, Training) and built.error:
        return built.error
    curve = built.curve if isinstance(built, Training) else {"step": []}
    cost = {"seconds": built.seconds, "curve": curve}
    extra = {"id": request.id(), **cost, "trainer": trainer_config(request.method)}
    if isinstance(request.source, ModelSource):  # for whoever loads it elsewhere
        model = request.source.names()["model"]["name"]
        extra["place"] = {"model": model, "site": str(request.source.site())}
    try:
        _write(built.sae, request.folder(), extra)
    except UserError as error:
        return error
    if isinstance(built, Training) and built.state_dir:
        shutil.rmtree(built.state_dir, ignore_errors=True)
    return Checkpoint(id=request.id(), sae=built.sae, **cost, found=False)


def _load(folder: Path, request: Request) -> Checkpoint:
    name = folder.name
    try:
        extra = saes.read_meta(folder)["extra"]
        if extra.get("id") != name:
            raise UserError(f"{folder}: its id must be {name}, got {extra.get('id')!r:.60}")
        _check_cost(extra, folder)
        sae = saes.load(folder, request.device, blank=request.method.blank)
    except UserError as error:  # one that was trained here can be trained again
        raise UserError(f"{error}; delete {folder} to retrain") from error
    return Checkpoint(id=name, sae=sae, seconds=extra["seconds"], curve=extra["curve"], found=True)


def _check_cost(extra: dict[str, Any], folder: Path) -> None:
    """Raise UserError unless a checkpoint says what its training took, and its curve."""
    path, curve = folder / "sae.json", extra.get("curve")
    try:
        checks.number("seconds", extra.get("seconds"), low=0)
    except ValueError as error:
        raise UserError(f"damaged file {path}: {error}") from None
    columns = curve.values() if isinstance(curve, dict) and "step" in curve else ()
    lengths = {len(each) if isinstance(each, list) else -1 for each in columns}
    if len(lengths) != 1 or -1 in lengths:
        raise UserError(
            f"damaged file {path}: curve must hold lists of one length, one of them step"
        )


def _write(sae: Dictionary, folder: Path, extra: dict[str, Any]) -> None:
    """Make the folder whole or not at all."""
    with writing("a trained SAE", folder) as fresh:
        sae.save(fresh, extra)
