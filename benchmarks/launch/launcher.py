"""The launcher of sweeps on this machine: cells one after another, SAEs of one stream together.

Like Hydra's basic launcher, but before a cell runs, the SAEs that it shares a stream with are
trained in one go (`gradsae.training.sharing`). Another launcher (`hydra/launcher=basic`, joblib,
submitit) shares nothing and gives the same records.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

if TYPE_CHECKING:
    from gradsae.training.checkpoints import Request


class CellsLauncher(Launcher):
    """Hydra knows it as `hydra_plugins.gradsae_launcher.SharedLauncher`."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from gradsae.training.sharing import Shared  # torch: not before it is needed

        setup_globals()
        self._configure_log()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        configs = [
            self._compose(overrides, initial_job_idx + i)
            for i, overrides in enumerate(job_overrides)
        ]
        shared = Shared([due(config) for config in configs])
        runs = []
        for i, config in enumerate(configs):
            words = " ".join(filter_overrides(job_overrides[i]))
            print(f"cell {initial_job_idx + i} of {len(configs)}: {words}", flush=True)
            for note in shared.train_for(i):
                print(note, flush=True)
            runs.append(
                run_job(
                    hydra_context=self.hydra_context,
                    task_function=self.task_function,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
            )
            self._configure_log()
        return runs

    def _compose(self, overrides: Sequence[str], idx: int) -> DictConfig:
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = idx
            config.hydra.job.num = idx
        return config

    def _configure_log(self) -> None:
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)


def due(config: DictConfig) -> "list[Request]":
    """Return the SAEs that the job of this config would train; none if it cannot be built.

    What is wrong is for the job itself to report.
    """
    from gradsae.bench import cell, experiment

    try:
        return experiment.due(cell.build(config, config.hydra.runtime.choices.experiment))
    except Exception:  # whatever it is, it meets the job again
        return []
