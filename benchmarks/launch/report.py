"""What a run says at its end: the table of its records, and what failed."""

import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

CELL = "cell.json"
"""Note that each job leaves in its folder: status, text, path of the record."""

failures: list[str] = []
"""Messages of failed cells; not empty means a non-zero exit."""


class Report(Callback):
    """Collects the notes of all jobs, wherever they ran, and prints one table."""

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        _report(Path(config.hydra.runtime.output_dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        _report(Path(config.hydra.sweep.dir))


def _report(folder: Path) -> None:
    notes = [json.loads(path.read_text()) for path in _in_order(folder)]
    failures.extend(note["text"] for note in notes if note["status"] == "failed")
    paths = dict.fromkeys(note["record"] for note in notes if note["record"])
    if paths:
        from benchmarks.render.console import summary_table
        from gradsae.records.record import load

        print()
        print(summary_table([load(path) for path in paths]), flush=True)
    if len(notes) > 1:
        for text in failures:
            print(f"failed: {text}", file=sys.stderr)


def _in_order(folder: Path) -> list[Path]:
    """Return the notes below a folder in the order of their jobs."""
    return sorted(folder.rglob(CELL), key=lambda path: (len(path.parent.name), path.parent.name))
