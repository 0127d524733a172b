"""The main job: one cell of the benchmark, or a sweep of cells (`-m`, or an experiment's own).

python -m benchmarks.run experiment=quickstart
python -m benchmarks.run -m trainer=topk,l1,gba source=superposition,lm_layer seed=0,1,2
"""

import json
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from benchmarks.launch.command import command
from benchmarks.launch.report import CELL, failures
from benchmarks.launch.words import readable
from benchmarks.places import CONF, ROOT
from gradsae.config.experiments import full_rows
from gradsae.config.source import unfilled


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(cfg: DictConfig) -> None:
    """Run one cell and leave a note of its outcome for the report at the end."""
    from gradsae.bench.cell import build  # torch: not before it is needed
    from gradsae.bench.experiment import run
    from gradsae.errors import UserError

    folder = Path(HydraConfig.get().runtime.output_dir)
    experiment = HydraConfig.get().runtime.choices.get("experiment")
    try:
        outcome = run(build(cfg, experiment), ROOT, _say_waiting)
        path = str(outcome.record.absolute()) if outcome.record else None
        note = {"status": outcome.status, "text": outcome.text, "record": path}
        print(f"{outcome.status}: {outcome.text}", flush=True)
    except UserError as error:
        note = {"status": "failed", "text": str(error), "record": None}
        print(f"error: {error}", file=sys.stderr, flush=True)
    except Exception as error:  # a fault of the code: the other cells go on, and the table stands
        log = folder / f"{HydraConfig.get().job.name}.log"
        with log.open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        text = f"{type(error).__name__}: {error}; the traceback is in {log}"
        note = {"status": "failed", "text": text, "record": None}
        print(f"error: {text}", file=sys.stderr, flush=True)
    (folder / CELL).write_text(json.dumps({**note, "report": cfg.report}))


def _say_waiting(holder: str) -> None:
    print(f"waiting: {holder} measures the same cell", flush=True)


def folders_of(words: Sequence[str]) -> list[Path]:
    """Return the folders of experiment files: that of `--config-dir`, if it is given, then ours."""
    given = [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    given += [after for word, after in pairwise(words) if word in ("--config-dir", "-cd")]
    return [*(Path(folder) / "experiment" for folder in given), CONF / "experiment"]


def _run() -> None:
    words = readable(sys.argv[1:])
    sys.argv[1:] = full_rows(words, folders_of(words))
    with unfilled() if {"-h", "--help"} & set(sys.argv) else nullcontext():
        _job()
    if failures:
        sys.exit(1)


def main() -> None:
    """Run the cells that the words of the command name."""
    stopped = "interrupted: cells that were done are kept; the same command goes on from here"
    if status := command(_run, stopped):
        sys.exit(status)


if __name__ == "__main__":
    main()
