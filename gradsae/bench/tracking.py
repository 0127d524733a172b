"""Weights & Biases as a mirror of a run, or nothing, behind one signature.

Records are the truth: a run completes, and every figure can be drawn, with `mode="none"`.
Offline is a real run directory that `wandb sync` takes later; it needs no key and no network.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final, get_args

from gradsae.errors import UserError
from gradsae.storage.files import check_writable

Mode = Literal["offline", "online", "none"]

MAX_KEYS = 200
"""Scalars in one call: W&B bears 10,000 keys a project, so 4,096 latents are a histogram."""

MAX_ROWS = 10_000
"""wandb.Table drops what is beyond, with no more than a warning."""


class Run(AbstractContextManager["Run"]):
    """One job as W&B shows it. As a context manager it is finished, also after an error."""

    @abstractmethod
    def log(self, step: int, scores: Mapping[str, float | int]) -> None:
        """Scalars of one step. Steps grow; a repeated step after a resume is ignored."""

    @abstractmethod
    def histogram(self, name: str, values: Any) -> None:
        """Distribution of many finite numbers (an array or a list) at the latest step."""

    @abstractmethod
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of at most `MAX_ROWS` rows at the latest step."""

    @abstractmethod
    def summary(self, scores: Mapping[str, float | int]) -> None:
        """Final scores; these, not the history, are what a reader of the project should use."""

    @abstractmethod
    def finish(self, failed: bool = False) -> None:
        """Close the run. A sweep in one process needs this for each job; again does nothing."""

    @abstractmethod
    def __exit__(self, *error: Any) -> None: ...


@final
@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where runs are mirrored to. The caller names group, tags, job type and id of each run."""

    mode: Mode = "offline"
    project: str = "gradsae"
    entity: str | None = None
    """W&B user or team; None is the default of the account."""

    dir: str = "results/local"
    """Runs go to `<dir>/wandb/`."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"tracking mode is offline, online or none, got {self.mode!r}")
        if not self.project:
            raise ValueError("tracking needs the name of a project, got ''")

    def start(
        self,
        *,
        name: str,
        group: str,
        tags: Sequence[str],
        job_type: str,
        run_id: str,
        config: Mapping[str, Any],
    ) -> Run:
        """Open a run. The same `run_id` (a content id) goes on with that run where W&B can."""
        if self.mode == "none":
            return NoRun()
        about = {"name": name, "group": group, "tags": list(tags), "job_type": job_type}
        return WandbRun(_init(self, {**about, "id": run_id, "config": dict(config)}))


@final
class NoRun(Run):
    """Takes everything and does nothing, but refuses what W&B would refuse."""

    def log(self, step: int, scores: Mapping[str, float | int]) -> None:
        _check_keys(scores)

    def histogram(self, name: str, values: Any) -> None:
        pass

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        _check_rows(name, rows)

    def summary(self, scores: Mapping[str, float | int]) -> None:
        _check_keys(scores)

    def finish(self, failed: bool = False) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        pass


@final
class WandbRun(Run):
    def __init__(self, run: Any) -> None:
        self.run = run
        self._step = 0
        self._finished = False

    def log(self, step: int, scores: Mapping[str, float | int]) -> None:
        _check_keys(scores)
        self._step = step
        self.run.log(dict(scores), step=step)

    def histogram(self, name: str, values: Any) -> None:
        import numpy as np
        import wandb

        flat = np.asarray(values, dtype=float).ravel()
        counts = np.histogram(flat[np.isfinite(flat)], bins=64)
        self.run.log({name: wandb.Histogram(np_histogram=counts)}, step=self._step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import wandb

        _check_rows(name, rows)
        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        self.run.log({name: table}, step=self._step)

    def summary(self, scores: Mapping[str, float | int]) -> None:
        _check_keys(scores)
        self.run.summary.update(dict(scores))

    def finish(self, failed: bool = False) -> None:
        if not self._finished:
            self._finished = True
            self.run.finish(exit_code=1 if failed else 0)

    def __exit__(self, *error: Any) -> None:
        self.finish(failed=error[0] is not None)


def _init(tracking: Tracking, about: dict[str, Any]) -> Any:
    check_writable(Path(tracking.dir))  # wandb itself would go to another folder, in silence
    import wandb
    from wandb.errors import Error

    online = tracking.mode == "online"
    try:
        if online and not wandb.login(prompt=False, verify=False):
            raise UserError("W&B has no API key here")
        return wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            dir=tracking.dir,
            mode="online" if online else "offline",
            resume="allow" if online else None,  # an offline run cannot look up the earlier one
            reinit="create_new",  # leaves a run of the caller's own alone
            settings=wandb.Settings(silent=True, console="off"),
            **about,
        )
    except (UserError, Error, OSError, TimeoutError) as error:
        raise UserError(
            f"tracking={tracking.mode} did not start: {error}. Nothing was lost: "
            "run `wandb login`, or use tracking=offline or tracking=none."
        ) from error


def _check_keys(scores: Mapping[str, float | int]) -> None:
    if len(scores) > MAX_KEYS:
        raise ValueError(
            f"{len(scores)} scalars in one call, at most {MAX_KEYS}: "
            f"use a histogram or a table (first key: {next(iter(scores))})"
        )


def _check_rows(name: str, rows: Sequence[Sequence[Any]]) -> None:
    if len(rows) > MAX_ROWS:
        raise ValueError(f"table {name} has {len(rows)} rows, at most {MAX_ROWS}: sample it")
