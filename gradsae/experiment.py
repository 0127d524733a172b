"""Config -> record: the only module that puts sources, trainers, metrics and tasks together."""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, final

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from gradsae import checkpoints, checks
from gradsae.checkpoints import Checkpoint, Wanted, plain, shape_of, trainer_config
from gradsae.errors import UserError
from gradsae.files import check_writable
from gradsae.fit import FitSettings
from gradsae.influence import task as influence
from gradsae.interfaces import (
    KnownSource,
    Metric,
    ModelSource,
    Scores,
    Skipped,
    Source,
    Trainer,
)
from gradsae.masking import task as masking
from gradsae.metrics.across_seeds import Consistency
from gradsae.metrics.grid import Grid
from gradsae.metrics.once import sharing
from gradsae.provenance import provenance
from gradsae.records import Record, load, record_id, save
from gradsae.sae import SAE
from gradsae.seeds import Seeds
from gradsae.steering import budget
from gradsae.steering import task as steering
from gradsae.tracking import MAX_KEYS, MAX_ROWS, NoRun, Run, Tracking
from gradsae.trainers.pretrained import Pretrained

TASKS = {
    "recovery": 1,
    "consistency": 1,
    "grid": 1,
    "influence": influence.VERSION,
    "steering": steering.VERSION,
    "masking": masking.VERSION,
    "steering_budget": budget.VERSION,
}
"""Version of each task: goes up when the same cell would give other numbers."""
TRAINING_TASKS = ("recovery", "grid")
"""Tasks that ask what training achieves: its cost is theirs, and force=true trains anew."""
MODEL_TASKS = ("influence", "steering", "masking", "steering_budget")
"""Tasks that need a language model; each is a metric whose settings are a group of its name."""


@final
@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the benchmark, built."""

    task: str
    source: Source
    trainer: Trainer
    fit: FitSettings
    seeds: Seeds
    metrics: dict[str, Metric]
    on_models: dict[str, Metric]
    """The tasks of MODEL_TASKS, by name."""
    consistency: Consistency
    grid: Grid | None
    tracking: Tracking
    device: torch.device
    results: Path
    label: str | None
    experiment: str | None
    force: bool


@final
@dataclass(frozen=True)
class Outcome:
    """What became of a cell."""

    status: Literal["done", "found", "does not apply"]
    text: str
    """One line for a person."""
    record: Path | None = None


def build(cfg: DictConfig, experiment: str | None = None) -> Cell:
    """Return the cell of a composed config; `experiment` names the sweep it belongs to.

    Raises UserError with the field, the value and what would be right.
    """
    try:
        checks.one_of("task", cfg.task, tuple(TASKS))
        checks.flag("force", cfg.force)
        if cfg.task == "grid" and not cfg.get("grid"):
            raise UserError("task=grid: this trainer has no grid; conf/grid holds one per trainer")
        seeds = Seeds(**cfg.seeds)
        source = _build(cfg, "source")
        trainer = _told(_build(cfg, "trainer"), source)
        grid: Grid | None = _build(cfg, "grid") if cfg.get("grid") else None
        if cfg.task == "grid" and grid is not None:
            grid.trainers(trainer)  # before the work: each refuses what it cannot be
        return Cell(
            task=cfg.task,
            source=source,
            trainer=trainer,
            fit=_build(cfg, "fit"),
            seeds=seeds,
            metrics={name: _build(cfg, f"metric.{name}") for name in cfg.metric},
            on_models={name: _build(cfg, name) for name in MODEL_TASKS},
            consistency=_build(cfg, "consistency"),
            grid=grid,
            tracking=_build(cfg, "tracking"),
            device=_device(cfg.device),
            results=Path(cfg.results),
            label=cfg.label,
            experiment=experiment,
            force=cfg.force,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _build(cfg: DictConfig, field: str) -> Any:
    """Return the component of one field. One call each: a mapping of several would come back as
    plain copies without their methods."""
    try:
        return instantiate(OmegaConf.select(cfg, field), _convert_="object")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (UserError, ValueError)):
            raise UserError(f"{field}: {cause}") from error
        first = str(cause or error).splitlines()[0]
        raise UserError(f"{field}: {first}") from error


def _told(trainer: Trainer, source: Source) -> Trainer:
    """Hand the truth to an oracle; one on a source without known features is left as it is, and
    its cell does not apply. An SAE made elsewhere must belong to the source's place."""
    if isinstance(trainer, Pretrained) and isinstance(source, ModelSource):
        trainer.check_place(source.site(), source.names()["model"]["name"])
    if trainer.wants_truth and isinstance(source, KnownSource):
        return replace(cast(Any, trainer), truth=source)
    return trainer


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device must be auto, cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}, but torch sees no CUDA device; use device=auto")
    return device


def run(cell: Cell) -> Outcome:
    """Measure one cell and save its record; skip it if this machine has done it."""
    if why := _why_not(cell):
        return Outcome("does not apply", f"{_name(cell)}: {why}")
    check_writable(cell.results)  # before the work, not after it
    path = _record_path(cell)
    if path.exists() and not cell.force:
        load(path)  # a damaged record is an error, not done work
        done = f"done before, force=true repeats it ({path.stem})"
        return Outcome("found", f"{_name(cell)}: {done}", path)
    cell.source.d_in()  # harvests, where one is due
    started = time.perf_counter()
    with _track(cell, path.stem, _config(cell)) as tracked:
        measured = _wanted(cell) if cell.task == "grid" else _wanted(cell)[:1]
        trained = [_checkpoint(cell, wanted, tracked) for wanted in measured]
        answer = _measure(cell, trained)
        if isinstance(answer, Skipped):
            return Outcome("does not apply", f"{_name(cell)}: {answer.reason}")
        seconds = time.perf_counter() - started
        if cell.task in TRAINING_TASKS:  # the cost of the method, whenever it was paid
            seconds += sum(checkpoint.seconds for checkpoint in trained if checkpoint.found)
        record = _record(cell, trained, answer, seconds)
        path = save(record, cell.results / "records")  # first: W&B is only a mirror
        _mirror(tracked, record)
    return Outcome("done", f"{_name(cell)}: {path.stem}", path)


def due(cell: Cell) -> list[Wanted]:
    """Return the SAEs that `run` would train and that may be trained before it.

    Those of a forced cell are left to the cell: it trains anew whatever is there.
    """
    if _why_not(cell) or cell.force or _record_path(cell).exists():
        return []
    return [wanted for wanted in _wanted(cell) if not wanted.folder().exists()]


def _why_not(cell: Cell) -> str | None:
    """Return why a cell does not apply, or None."""
    if cell.task in MODEL_TASKS and not isinstance(cell.source, ModelSource):
        return f"source {cell.source.name} has no language model"
    if cell.trainer.wants_truth and not isinstance(cell.source, KnownSource):
        return f"source {cell.source.name} has no known features"
    return None


def _task(cell: Cell) -> dict[str, Any]:
    return {"name": cell.task, "version": TASKS[cell.task]}


def _record_path(cell: Cell) -> Path:
    name = record_id(_task(cell), _config(cell), plain(cell.seeds))
    return cell.results / "records" / f"{name}.json"


def _name(cell: Cell) -> str:
    return f"{cell.task} of {cell.label or cell.trainer.name} on {cell.source.name}"


def _config(cell: Cell) -> dict[str, Any]:
    """Return what was measured on what, and under which names."""
    metrics = {name: plain(metric) for name, metric in cell.metrics.items()}
    asked: dict[str, Any] = {
        "recovery": metrics,
        "grid": {**plain(cell.grid or {}), **metrics},
        "consistency": plain(cell.consistency),
        **{name: plain(metric) for name, metric in cell.on_models.items()},
    }
    config = {
        "label": cell.label,
        "experiment": cell.experiment,
        "source": {"name": cell.source.name, **cell.source.identity()},
        "trainer": trainer_config(cell.trainer),
        "fit": shape_of(cell.fit),
        "ask": asked[cell.task],
    }
    if isinstance(cell.source, ModelSource):
        config |= cell.source.names()
    return plain(config)


def _track(cell: Cell, name: str, config: dict[str, Any]) -> Run:
    return cell.tracking.start(
        name=_name(cell),
        group=cell.experiment or "single",
        tags=[cell.task, cell.source.name, cell.trainer.name],
        job_type=cell.task,
        run_id=name,
        config={**config, "seeds": plain(cell.seeds)},
    )


def _wanted(cell: Cell) -> list[Wanted]:
    """Return the cell's own SAE first; after it, for consistency, those of the other seeds, for a
    grid those of the other settings."""
    seeds = [cell.seeds]
    if cell.task == "consistency":
        seeds += [replace(cell.seeds, data=s, init=s) for s in cell.consistency.others]
    trainers = [cell.trainer]
    if cell.task == "grid" and cell.grid is not None:
        trainers = cell.grid.trainers(cell.trainer)
    about = {"source": cell.source, "settings": cell.fit}
    where = {"root": cell.results, "device": cell.device}
    return [
        Wanted(seeds=each, trainer=trainer, **about, **where)
        for each in seeds
        for trainer in trainers
    ]


def _checkpoint(cell: Cell, wanted: Wanted, tracked: Run) -> Checkpoint:
    return checkpoints.get(
        wanted,
        log=lambda step, parts: tracked.log(step, {f"train/{k}": v for k, v in parts.items()}),
        force=cell.force and cell.task in TRAINING_TASKS,
    )


def _measure(cell: Cell, trained: Sequence[Checkpoint]) -> Scores | Skipped:
    sae, seed = trained[0].sae, cell.seeds.eval
    match cell.task:
        case "recovery":
            return _recovery(cell, sae)
        case "grid":
            assert cell.grid is not None
            trainers = cell.grid.trainers(cell.trainer)
            return cell.grid.table(trainers, [_recovery(cell, each.sae) for each in trained])
        case "consistency":
            runs = [sae] + [_checkpoint(cell, other, NoRun()).sae for other in _wanted(cell)[1:]]
            return cell.consistency.compare(runs, cell.source, seed)
        case task:
            return cell.on_models[task].measure(sae, cell.source, seed)


def _recovery(cell: Cell, sae: SAE) -> Scores:
    seed = cell.seeds.eval
    with sharing():
        return _merge({k: m.measure(sae, cell.source, seed) for k, m in cell.metrics.items()})


def _merge(answers: dict[str, Scores | Skipped]) -> Scores:
    """Put the answers of several metrics together."""
    merged = Scores(scores={})
    for name, answer in answers.items():
        if isinstance(answer, Skipped):
            merged.skipped[name] = answer.reason
            continue
        for field in ("scores", "intervals", "n", "series", "skipped"):
            getattr(merged, field).update(getattr(answer, field))
    spent = sum(a.forward_equivalents for a in answers.values() if isinstance(a, Scores))
    return replace(merged, forward_equivalents=spent)


def _record(cell: Cell, trained: Sequence[Checkpoint], answer: Scores, seconds: float) -> Record:
    series, source = dict(answer.series), cell.source
    if cell.task == "recovery":
        series["training/curve"] = dict(trained[0].curve)
    store = source.activations_id() if isinstance(source, ModelSource) else None
    return Record(
        task=_task(cell),
        config=_config(cell),
        seeds=plain(cell.seeds),
        scores=answer.scores,
        intervals={k: list(v) for k, v in answer.intervals.items()},
        n=answer.n,
        skipped=answer.skipped,
        series=series,
        cost={
            "seconds": round(seconds, 2),
            "forward_equivalents": answer.forward_equivalents,
            "tokens": len(trained) * cell.fit.steps * cell.fit.batch_size,
            "peak_bytes": _peak_bytes(cell.device),
        },
        provenance=provenance(str(cell.device), **source.provenance()),
        artifacts={"checkpoint": trained[0].id, "activations": store},
    )


def _peak_bytes(device: torch.device) -> int:
    """Return the peak memory of this process so far (on the GPU if it ran there)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mirror(tracked: Run, record: Record) -> None:
    """Show the record in the tracker: scores as summary, small tables as tables.

    A tracker takes so many keys; where there are more scores, all of them are a table besides.
    """
    scores = [(name, float(value)) for name, value in record.scores.items()]
    tracked.summary(dict(scores[:MAX_KEYS]))
    if len(scores) > MAX_KEYS:
        tracked.table("scores", ["score", "value"], scores[:MAX_ROWS])
    for name, columns in record.series.items():
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        tracked.table(name, list(columns), rows)
