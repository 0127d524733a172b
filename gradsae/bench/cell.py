"""A cell: one (task, source, trainer, seeds), built from a composed config.

The only module that puts sources, trainers, metrics and tasks together; `experiment` measures it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, final

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from gradsae import checks
from gradsae.bench.tracking import Tracking
from gradsae.config.fields import refuse_unknown
from gradsae.errors import UserError
from gradsae.influence import task as influence
from gradsae.interfaces import KnownSource, Metric, ModelSource, Source, Trainer
from gradsae.masking import task as masking
from gradsae.metrics.across_seeds import Consistency
from gradsae.metrics.grid import Grid
from gradsae.records.record import record_id
from gradsae.seeds import Seeds
from gradsae.steering import budget
from gradsae.steering import task as steering
from gradsae.trainers.pretrained import Pretrained
from gradsae.training.checkpoints import Wanted, plain, shape_of, trainer_config
from gradsae.training.fit import FitSettings

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
    trainer: Trainer[Any]
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

    @property
    def title(self) -> str:
        """Its name for a person."""
        return f"{self.task} of {self.label or self.trainer.name} on {self.source.name}"

    def why_not(self) -> str | None:
        """Return why the cell does not apply, or None."""
        if self.task in MODEL_TASKS and not isinstance(self.source, ModelSource):
            return f"source {self.source.name} has no language model"
        if self.trainer.wants_truth and not isinstance(self.source, KnownSource):
            return f"source {self.source.name} has no known features"
        return None

    def wanted(self) -> list[Wanted]:
        """Return the cell's own SAE first; after it, for consistency, those of the other seeds, for
        a grid those of the other settings."""
        seeds = [self.seeds]
        if self.task == "consistency":
            seeds += [replace(self.seeds, data=s, init=s) for s in self.consistency.others]
        about = {"source": self.source, "settings": self.fit}
        where = {"root": self.results, "device": self.device}
        return [
            Wanted(seeds=each, trainer=trainer, **about, **where)
            for each in seeds
            for trainer in self.trainers()
        ]

    def trainers(self) -> list[Trainer[Any]]:
        """Return the trainer; after it, for a grid, its other settings."""
        if self.task == "grid" and self.grid is not None:
            return self.grid.trainers(self.trainer)
        return [self.trainer]

    def versioned_task(self) -> dict[str, Any]:
        return {"name": self.task, "version": TASKS[self.task]}

    def config(self) -> dict[str, Any]:
        """Return what is measured on what, and under which names."""
        metrics = {name: plain(metric) for name, metric in self.metrics.items()}
        asked: dict[str, Any] = {
            "recovery": metrics,
            "grid": {**plain(self.grid or {}), **metrics},
            "consistency": plain(self.consistency),
            **{name: plain(metric) for name, metric in self.on_models.items()},
        }
        config = {
            "label": self.label,
            "experiment": self.experiment,
            "source": {"name": self.source.name, **self.source.identity()},
            "trainer": trainer_config(self.trainer),
            "fit": shape_of(self.fit),
            "ask": asked[self.task],
        }
        if isinstance(self.source, ModelSource):
            config |= self.source.names()
        return plain(config)

    def record_path(self) -> Path:
        name = record_id(self.versioned_task(), self.config(), plain(self.seeds))
        return self.results / "records" / f"{name}.json"


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
            metrics={name: _metric(cfg, name) for name in cfg.metric},
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
        node = OmegaConf.select(cfg, field)
        refuse_unknown(field, OmegaConf.to_container(node) if isinstance(node, Container) else node)
        return instantiate(node, _convert_="object")
    except InterpolationResolutionError as error:  # "... resolving interpolation: WHY"
        raise UserError(str(error).splitlines()[0].partition(": ")[2]) from error
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (UserError, ValueError)):
            raise UserError(f"{field}: {cause}") from error
        first = str(cause or error).splitlines()[0]
        raise UserError(f"{field}: {first}") from error


def _metric(cfg: DictConfig, name: str) -> Metric:
    built = _build(cfg, f"metric.{name}")
    if not isinstance(built, Metric):  # a row sets fields of a metric that was not chosen
        raise UserError(
            f"metric.{name}: it has settings but is not chosen; add it to metric=[...], or drop "
            f"its settings with ~metric.{name}"
        )
    return built


def _told(trainer: Trainer[Any], source: Source) -> Trainer[Any]:
    """Hand the truth to an oracle; one on a source without known features is left as it is, and
    its cell does not apply. An SAE made elsewhere must belong to the source's place."""
    if isinstance(trainer, Pretrained) and isinstance(source, ModelSource):
        model = source.names()["model"]["name"]
        trainer.check_place(source.site(), model)
        return replace(trainer, source_model=model)
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
