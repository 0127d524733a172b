"""A cell: one (task, source, method, seeds), built from a composed config.

The only module that puts sources, methods and tasks together; `experiment` measures it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from gradsae import checks
from gradsae.about import plain
from gradsae.bench.tracking import Tracking
from gradsae.config.fields import refuse_unknown
from gradsae.config.resolvers import latents
from gradsae.errors import UserError
from gradsae.interfaces import Method, ModelSource, Source, Task, Trainer
from gradsae.records.record import load, record_id
from gradsae.seeds import Seeds
from gradsae.training.checkpoints import Request, shape_of, trainer_config
from gradsae.training.fit import FitSettings

Part = TypeVar("Part")


@final
@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the benchmark, built."""

    task: Task
    source: Source
    method: Method[Any]
    fit: FitSettings
    seeds: Seeds
    tracking: Tracking
    device: torch.device
    results: Path
    label: str | None
    experiment: str | None
    force: bool

    @property
    def title(self) -> str:
        """Its name for a person."""
        return f"{self.task.name} of {self.label or self.method.name} on {self.source.name}"

    def why_not(self) -> str | None:
        """Return why the cell does not apply, or None."""
        return self.task.why_not(self.source) or self.method.why_not(self.source)

    def requests(self) -> list[Request]:
        """Return the SAEs that the task asks for, the cell's own first."""
        return [
            Request(
                source=self.source,
                method=method,
                settings=self.fit,
                seeds=seeds,
                root=self.results,
                device=self.device,
                along=self._steps_along() if isinstance(method, Trainer) else (),
            )
            for method, seeds in self.task.candidates(self.method, self.seeds)
        ]

    def _steps_along(self) -> tuple[int, ...]:
        """Return the steps after which the task looks at an SAE on its way."""
        size, n_steps = self.fit.batch_size, self.fit.steps
        steps = {max(1, round(rows / size)) for rows in self.task.rows_along(n_steps * size)}
        return tuple(sorted(step for step in steps if step < n_steps))

    def versioned_task(self) -> dict[str, Any]:
        return {"name": self.task.name, "version": self.task.version}

    def config(self) -> dict[str, Any]:
        """Return what is measured on what, and under which names."""
        config = {
            "label": self.label,
            "experiment": self.experiment,
            "source": {"name": self.source.name, **self.source.identity()},
            "trainer": trainer_config(self.method),
            "fit": shape_of(self.fit),
            "ask": self.task.asks(),
        }
        if isinstance(self.source, ModelSource):
            config |= self.source.names()
        return plain(config)

    def record_path(self) -> Path:
        """Return the file of the record, which need not be there.

        The ids of earlier versions leave out the dtype in which a task runs the model. A record
        under such an id counts if it says that its model had this dtype.
        """
        config = self.config()
        path, model = self._record_file(config), config.get("model", {})
        if path.exists() or "dtype" not in model:
            return path
        former = self._record_file({**config, "model": {"name": model["name"]}})
        return former if _dtype_said_in(former) == model["dtype"] else path

    def _record_file(self, config: dict[str, Any]) -> Path:
        name = record_id(self.versioned_task(), config, plain(self.seeds))
        return self.results / "records" / f"{name}.json"

    def lease(self) -> Path:
        """Return the lease of whoever measures this cell."""
        return self.results / "leases" / f"record-{self.record_path().stem}"


def _dtype_said_in(record: Path) -> str | None:
    """Return the dtype of the model of a record; None where there is no such record."""
    if not record.is_file():
        return None
    model = load(record).provenance.get("model")
    return model.get("dtype") if isinstance(model, dict) else None


def build(cfg: DictConfig, experiment: str | None = None) -> Cell:
    """Return the cell of a composed config; `experiment` names the sweep it belongs to.

    Raises UserError with the field, the value and what would be right.
    """
    try:
        checks.flag("force", cfg.force)
        _check_width(cfg)
        cell = Cell(
            seeds=Seeds(**cfg.seeds),
            source=(source := _build(cfg, "source", Source)),
            method=_build(cfg, "trainer", Method).bind(source),
            task=_build(cfg, "task", Task),
            fit=_build(cfg, "fit", FitSettings),
            tracking=_build(cfg, "tracking", Tracking),
            device=checks.device(cfg.device),
            results=Path(cfg.results),
            label=cfg.label,
            experiment=experiment,
            force=cfg.force,
        )
        cell.requests()  # before the work: the task refuses what the method cannot be
        return cell
    except ValueError as error:
        raise UserError(str(error)) from error


def _check_width(cfg: DictConfig) -> None:
    """Raise UserError where both a width and another number of latents are given."""
    if cfg.get("width") is not None and cfg.d_sae != (meant := latents(0, _root_=cfg)):
        raise UserError(
            f"width={cfg.width} means d_sae={meant} here, got d_sae={cfg.d_sae}: set one"
        )


def _build(cfg: DictConfig, field: str, kind: type[Part]) -> Part:
    """Return the component of one field, which must be a `kind`."""
    try:
        node = OmegaConf.select(cfg, field)
        refuse_unknown(field, OmegaConf.to_container(node) if isinstance(node, Container) else node)
        built = instantiate(node, _convert_="object")
    except InterpolationResolutionError as error:  # "... resolving interpolation: WHY"
        line = str(error).splitlines()[0]
        raise UserError(line.partition(": ")[2] or line) from error
    except InstantiationException as error:
        cause, place = error.__cause__, _place(error) or field
        if isinstance(cause, (UserError, ValueError)):
            raise UserError(f"{place}: {cause}") from error
        first = str(cause or error).splitlines()[0]
        raise UserError(f"{place}: {first}") from error
    if not isinstance(built, kind):
        raise UserError(f"{field} must be a {kind.__name__}, got a {type(built).__name__}")
    return built


def _place(error: InstantiationException) -> str:
    """Return the field that could not be built, however deep it stands; empty if that is unknown.

    Hydra writes it into a line of its message.
    """
    mark = "full_key: "
    lines = str(error).splitlines()
    return next((line.removeprefix(mark) for line in lines if line.startswith(mark)), "")
