"""Weights & Biases as a mirror of a run, or nothing, behind one signature.

Records are the truth: a run completes, and every figure can be drawn, with `mode="none"`.
Offline is a real run directory that `wandb sync` takes later; it needs no key and no network.
Whatever W&B does, the run goes on: a mirror that breaks is left, and one line on stderr says so.
"""

import os
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, final, get_args

from gradsae.errors import UserError
from gradsae.storage.files import check_writable

Mode = Literal["offline", "online", "none"]

ENVIRONMENT: Mapping[str, Mode] = {
    **{"online": "online", "run": "online", "shared": "online"},
    **{"offline": "offline", "dryrun": "offline", "disabled": "none"},
}
"""Values of WANDB_MODE, and what they ask for."""

HOMES = {"cache": ".cache", "config": ".config", "data": ".local/share"}
"""Where W&B keeps its own files, below the home folder."""

PATIENCE = 120.0
"""Seconds that one call to W&B may take: where its process is gone, some calls never return."""

MAX_KEYS = 200
"""Scalars in one call: W&B bears 10,000 keys a project, so the scores of 4,096 latents are a
table."""

MAX_ROWS = 10_000
"""wandb.Table drops what is beyond, with no more than a warning."""


class Run(AbstractContextManager["Run"]):
    """One job as W&B shows it. As a context manager it is finished, also after an error."""

    @abstractmethod
    def log(self, step: int, scores: Mapping[str, float | int]) -> None:
        """Scalars of one step. Steps grow; a repeated step after a resume is ignored."""

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
    """Where runs are mirrored to. The caller names group, tags, job type and id of each run.

    `WANDB_MODE` and `WANDB_DISABLED` go before `mode`, unless that is "none".
    """

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
        """Open a run. The same `run_id` (a content id) goes on with that run where W&B can.

        Without an API key an online run is kept offline; where W&B does not start, nothing is
        mirrored. Either is said on stderr.
        """
        mode = mode_now(self.mode)
        if mode == "none":
            return NoRun()
        about = {"name": name, "group": group, "tags": list(tags), "job_type": job_type}
        about |= {"id": run_id, "config": dict(config)}
        try:
            return WandbRun(_within(PATIENCE, lambda: _init(self, mode, about)))
        except Exception as error:  # W&B's own, and whatever a broken home or variable brings
            _leave(f"W&B did not start, and this run is not mirrored: {_first_line(error)}", error)
            return NoRun()


def mode_now(mode: Mode) -> Mode:
    """Return the mode that holds here: what is configured, or what W&B's variables ask for."""
    if mode == "none" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "none"
    requested = os.environ.get("WANDB_MODE", "").lower()
    if requested and requested not in ENVIRONMENT:
        _say(
            f"WANDB_MODE must be one of {', '.join(ENVIRONMENT)}, got {requested!r}: it is ignored"
        )
        os.environ.pop("WANDB_MODE")  # W&B itself would refuse to be imported
    return ENVIRONMENT.get(requested, mode)


@final
class NoRun(Run):
    """Takes everything and does nothing, but refuses what W&B would refuse."""

    def log(self, step: int, scores: Mapping[str, float | int]) -> None:
        _check_keys(scores)

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
    """A run of W&B. After the first call that fails, further ones do nothing."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self._step = 0
        self._ended = False

    def log(self, step: int, scores: Mapping[str, float | int]) -> None:
        _check_keys(scores)
        self._step = step
        self._try(lambda: self.run.log(dict(scores), step=step))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        import wandb

        _check_rows(name, rows)

        def show() -> None:
            table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
            self.run.log({name: table}, step=self._step)

        self._try(show)

    def summary(self, scores: Mapping[str, float | int]) -> None:
        _check_keys(scores)
        self._try(lambda: self.run.summary.update(dict(scores)))

    def finish(self, failed: bool = False) -> None:
        self._try(lambda: self.run.finish(exit_code=1 if failed else 0))
        self._ended = True

    def __exit__(self, *error: Any) -> None:
        self.finish(failed=error[0] is not None)

    def _try(self, action: Callable[[], object]) -> None:
        """Carry out a call to W&B; leave the mirror if it fails or does not return."""
        if self._ended:
            return
        try:
            _within(PATIENCE, action)
        except Exception as error:  # whatever it is, the record does not depend on it
            self._ended = True
            line = f"W&B stopped, and the rest of this run is not mirrored: {_first_line(error)}"
            _leave(line, error)


def _init(tracking: Tracking, mode: Mode, about: dict[str, Any]) -> Any:
    check_writable(Path(tracking.dir))  # wandb itself would go to another folder, in silence
    _find_homes(Path(tracking.dir) / "wandb")
    import wandb

    if mode == "online" and not wandb.login(prompt=False, verify=False):
        mode = "offline"
        _say("W&B has no API key here: this run is kept offline; `wandb login`, then `wandb sync`")
    online = mode == "online"
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


def _find_homes(instead: Path) -> None:
    """Send W&B's cache, settings and data to another folder where theirs cannot be written."""
    for name, below in HOMES.items():
        variable = f"WANDB_{name.upper()}_DIR"
        if not _is_writable(os.environ.get(variable), below):
            os.environ[variable] = str(instead / name)


@cache
def _is_writable(folder: str | None, below: str) -> bool:
    """Try W&B's folder, or where it is None the one at `below` in the home; once a process.

    A trial waits for the disk three times, and a sweep of small cells has thousands.
    """
    try:
        check_writable(folder if folder is not None else Path.home() / below / "wandb")
    except (UserError, RuntimeError):  # no such folder; no home at all
        return False
    return True


def _leave(line: str, error: Exception) -> None:
    """Say why there is no mirror; where W&B's process is gone, let go of it.

    Otherwise the end of Python would ask it once more, and the next run would meet it again.
    """
    _say(line)
    wandb = sys.modules.get("wandb")
    if wandb and isinstance(error, OSError | TimeoutError):
        with suppress(Exception):
            _within(PATIENCE, wandb.teardown)


def _within(seconds: float, action: Callable[[], Any]) -> Any:
    """Return what an action returns; TimeoutError where it takes too long, then left behind."""
    results: list[Any] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(action())
        except Exception as error:  # raised again below
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name="W&B")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _check_keys(scores: Mapping[str, float | int]) -> None:
    if len(scores) > MAX_KEYS:
        raise ValueError(
            f"{len(scores)} scalars in one call, at most {MAX_KEYS}: "
            f"use a table (first key: {next(iter(scores))})"
        )


def _check_rows(name: str, rows: Sequence[Sequence[Any]]) -> None:
    if len(rows) > MAX_ROWS:
        raise ValueError(f"table {name} has {len(rows)} rows, at most {MAX_ROWS}: sample it")
