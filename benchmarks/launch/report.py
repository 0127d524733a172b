"""What a run says at its end: the table of its records, what failed, and where its page is."""

import json
import sys
from collections.abc import Sequence
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
    """Print the table of a run's records; write the page of a sweep and print its path last."""
    notes = [json.loads(path.read_text()) for path in _in_order(folder)]
    failures.extend(note["text"] for note in notes if note["status"] == "failed")
    paths = [Path(name) for name in dict.fromkeys(n["record"] for n in notes if n["record"])]
    if paths:
        from benchmarks.render.console import summary_table
        from gradsae.records.record import load

        print()
        print(summary_table([load(path) for path in paths]), flush=True)
    if len(notes) > 1:
        for text in failures:
            print(f"failed: {text}", file=sys.stderr, flush=True)
        if paths and notes[0]["report"] == "page":
            _write_page(paths, folder / "site")


def _write_page(paths: Sequence[Path], out: Path) -> None:
    """Write the page of these records. The run is done: what fails here is one line, no error."""
    try:
        from benchmarks.launch.site import write_site

        page, problems = write_site(paths, failures, out)
    except Exception as error:  # whatever it is, the records are safe and the run has succeeded
        print(f"no page was written: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return
    for problem in problems:
        print(f"left out of the page: {problem}", file=sys.stderr, flush=True)
    print(f"\nopen {page}", flush=True)


def _in_order(folder: Path) -> list[Path]:
    """Return the notes below a folder in the order of their jobs."""
    return sorted(folder.rglob(CELL), key=lambda path: (len(path.parent.name), path.parent.name))
