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

from benchmarks.launch.command import command, machine_message
from benchmarks.launch.faults import run_hydra, say_and_stop
from benchmarks.launch.report import CELL, failures
from benchmarks.launch.words import readable
from benchmarks.places import CONF, ROOT
from gradsae.config.experiments import full_rows
from gradsae.config.source import unfilled
from gradsae.errors import UnwritableError, UserError
from gradsae.storage.files import RESULTS, write_whole, writing_below


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(cfg: DictConfig) -> None:
    """Run one cell and leave a note of its outcome for the report at the end.

    Where its folder cannot be written, say so and end the command: no other cell could be kept.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    with say_and_stop(), writing_below(Path(str(cfg.results)), "the note of a cell"):
        note = _outcome(cfg, folder)
        write_whole(folder / CELL, json.dumps({**note, "report": cfg.report}))


def _outcome(cfg: DictConfig, folder: Path) -> dict[str, str | None]:
    """Run one cell, print what became of it and return its note.

    Raises UnwritableError, and OSError where the traceback of another error cannot be written.
    """
    from gradsae.bench.cell import build  # torch: not before it is needed
    from gradsae.bench.experiment import run

    experiment = HydraConfig.get().runtime.choices.get("experiment")
    try:
        outcome = run(build(cfg, experiment), ROOT, _say_waiting)
        path = str(outcome.record.absolute()) if outcome.record else None
        note = {"status": outcome.status, "text": outcome.text, "record": path}
        print(f"{outcome.status}: {outcome.text}", flush=True)
        return note
    except UserError as error:
        if isinstance(error, UnwritableError) and error.setting == RESULTS:
            raise
        text = str(error)
    except Exception as error:  # a fault of the code: the other cells go on, and the table stands
        text = machine_message(error)
        if text is None:
            log = folder / f"{HydraConfig.get().job.name}.log"
            with log.open("a", encoding="utf-8") as file:
                file.write(traceback.format_exc())
            text = f"{type(error).__name__}: {error}; the traceback is in {log}"
    print(f"error: {text}", file=sys.stderr, flush=True)
    return {"status": "failed", "text": text, "record": None}


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
        run_hydra(_job)
    if failures:
        sys.exit(1)


def main() -> None:
    """Run the cells that the words of the command name."""
    stopped = "interrupted: cells that were done are kept; the same command goes on from here"
    if status := command(_run, stopped):
        sys.exit(status)


if __name__ == "__main__":
    main()
