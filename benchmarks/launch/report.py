"""The report at the end of a run: the table of its records, the failures, the path of its page."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from benchmarks.launch.command import MAX_LINE
from benchmarks.launch.faults import begin
from gradsae.tables.printing import printable_lines

if TYPE_CHECKING:
    from benchmarks.results.reading import Entry

CELL = "cell.json"
"""Note that each job leaves in its folder: status, text, path of the record."""

failures: list[str] = []
"""Messages of failed cells; not empty means a non-zero exit."""


class Report(Callback):
    """Collects the notes of all jobs, wherever they ran, and prints one table."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        begin(Path(str(config.results)))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        begin(Path(str(config.results)))

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        _report(Path(config.hydra.runtime.output_dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        _report(Path(config.hydra.sweep.dir))


def _report(folder: Path) -> None:
    """Print the table of a run's records; write the page of a sweep and print its path last."""
    notes = [note for path in _in_order(folder) if (note := _note(path))]
    failures.extend(note["text"] for note in notes if note["status"] == "failed")
    entries = _entries(Path(name) for name in dict.fromkeys(n["record"] for n in notes) if name)
    if entries:
        print()
        print(_table(entries), flush=True)
    if len(notes) > 1:
        for text in failures:
            _say(f"failed: {text}")
        if entries and notes[0]["report"] == "page":
            _write_page(entries, folder / "site")


def _note(path: Path) -> dict[str, Any] | None:
    """Return the note of a job; one that was cut short is a failure, and named."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return {key: note[key] for key in ("status", "text", "record", "report")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        failures.append(f"what became of a cell is not known: {path} is damaged ({error})")
        return None


def _entries(paths: Iterable[Path]) -> "list[Entry]":
    """Return the records of some files; one that is damaged is named and left out."""
    from benchmarks.results.reading import LOCAL_ORIGIN, Entry
    from benchmarks.results.tolerance import leave_out
    from gradsae.errors import UserError
    from gradsae.records.record import load

    entries: list[Entry] = []
    for path in paths:
        try:
            entries.append(Entry(record=load(path), path=path, origin=LOCAL_ORIGIN))
        except UserError as error:
            leave_out(str(error))
    return entries


def _table(entries: "Sequence[Entry]") -> str:
    """Return the table of some records, without those that it cannot show."""
    from benchmarks.render.console import summary_table
    from benchmarks.results.tolerance import tolerant

    return tolerant(
        lambda some: summary_table([entry.record for entry in some]), entries, str, "the table"
    )


def _write_page(entries: "Sequence[Entry]", out: Path) -> None:
    """Write the page of these records. The run is done: what fails here is one line, no error."""
    try:
        from benchmarks.launch.site import write_site

        page, problems = write_site(entries, failures, out)
    except Exception as error:  # whatever it is, the records are safe and the run has succeeded
        _say(f"no page was written: {type(error).__name__}: {error}")
        return
    for problem in problems:
        _say(f"left out of the page: {problem}")
    print(f"\nopen {page}", flush=True)


def _say(text: str) -> None:
    """Print to stderr what may quote a record or another file."""
    print(printable_lines(text, MAX_LINE), file=sys.stderr, flush=True)


def _in_order(folder: Path) -> list[Path]:
    """Return the notes below a folder in the order of their jobs."""
    return sorted(folder.rglob(CELL), key=lambda path: (len(path.parent.name), path.parent.name))
