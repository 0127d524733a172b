"""The launcher of sweeps on this machine: cells one after another, SAEs of one stream together.

Like Hydra's basic launcher, but before a cell runs, the SAEs that it shares a stream with are
trained in one go (`gradsae.training.sharing`). Another launcher (`hydra/launcher=basic`, joblib,
submitit) shares nothing and gives the same records.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

if TYPE_CHECKING:
    from gradsae.storage.lease import Lease
    from gradsae.training.checkpoints import Request


POLL_SECONDS = 0.25
"""Between looks at cells that other processes work on."""


class CellsLauncher(Launcher):
    """Hydra knows it as `hydra_plugins.gradsae_launcher.SharedLauncher`."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        setup_globals()
        self._configure_log()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        configs = [
            self._compose(overrides, initial_job_idx + i)
            for i, overrides in enumerate(job_overrides)
        ]
        words = [" ".join(filter_overrides(overrides)) for overrides in job_overrides]
        return self._run_all(configs, words, initial_job_idx)

    def _run_all(
        self, configs: Sequence[DictConfig], words: Sequence[str], first: int
    ) -> list[JobReturn]:
        """Run the cells in order, those that another process works on last; return their results.

        The other process may be an identical sweep: then the two share the cells between them.
        """
        from gradsae.training.sharing import Shared  # torch: not before it is needed

        works = [work_of(config) for config in configs]
        shared = Shared([work.due for work in works])
        runs: dict[int, JobReturn] = {}
        put_off: set[int] = set()
        while waiting := [i for i in range(len(configs)) if i not in runs]:
            free, lease = next(((i, held) for i in waiting if (held := take(works[i]))), (-1, None))
            for i in waiting if lease is None else waiting[: waiting.index(free)]:
                if i not in put_off:
                    print(f"cell {first + i}: another process works on it, it comes later")
                    put_off.add(i)
            if lease is None:
                time.sleep(POLL_SECONDS)
                continue
            try:
                print(f"cell {first + free} of {len(configs)}: {words[free]}", flush=True)
                for note in shared.train_for(free):
                    print(note, flush=True)
                runs[free] = self._run(configs[free])
            finally:
                lease.give_back()
        return [runs[i] for i in range(len(configs))]

    def _run(self, config: DictConfig) -> JobReturn:
        job = run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        self._configure_log()
        return job

    def _compose(self, overrides: Sequence[str], idx: int) -> DictConfig:
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = idx
            config.hydra.job.num = idx
        return config

    def _configure_log(self) -> None:
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)


class Work(NamedTuple):
    """What a job will do, as far as other processes may do it too."""

    due: "list[Request]"
    """The SAEs that it would train."""
    lease: "Lease"
    """Of the record."""


def work_of(config: DictConfig) -> Work:
    """Return the work of a job; that of a cell that cannot be built is of no other process.

    What is wrong is for the job itself to report.
    """
    from gradsae.bench import cell, experiment
    from gradsae.storage.lease import Lease

    try:
        built = cell.build(config, config.hydra.runtime.choices.experiment)
        return Work(experiment.due(built), Lease(built.lease()))
    except Exception:  # whatever it is, it meets the job again
        return Work([], Lease(None))


def take(work: Work) -> "Lease | None":
    """Return the lease of a cell, taken; None if another process measures it or trains its SAEs."""
    from gradsae.storage.lease import is_held

    is_free = not any(is_held(request.lease()) for request in work.due) and work.lease.take()
    return work.lease if is_free else None
