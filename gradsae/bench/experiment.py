"""Cell -> record: trains or finds the SAE of a cell, measures it and saves the record."""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, final

import torch

from gradsae.about import plain
from gradsae.bench.cell import Cell
from gradsae.bench.declared import declarations
from gradsae.bench.tracking import MAX_KEYS, MAX_ROWS, Run
from gradsae.errors import DivergedError, UserError
from gradsae.interfaces import Candidate, ModelSource, ModelTask, Scores, Skipped, Snapshot
from gradsae.records.provenance import provenance
from gradsae.records.record import Record, load, save
from gradsae.records.shapes import TaskId
from gradsae.storage.files import check_writable
from gradsae.storage.lease import holding
from gradsae.training import checkpoints
from gradsae.training.checkpoints import Checkpoint, Request


@final
@dataclass(frozen=True)
class Outcome:
    """What became of a cell."""

    status: Literal["done", "found", "does not apply"]
    text: str
    """One line for a person."""
    record: Path | None = None


def run(
    cell: Cell, checkout: Path | None = None, on_wait: Callable[[str], None] = lambda holder: None
) -> Outcome:
    """Measure one cell and save its record; skip it if this machine has done it.

    The record names the commit of `checkout`, where that is given: see `provenance`. While another
    process measures the same cell, wait for its record; `on_wait` is told which process that is.
    """
    if why := cell.why_not():
        return Outcome("does not apply", f"{cell.title}: {why}")
    check_writable(cell.results)  # before the work, not after it
    if done := _done(cell):
        return done
    with holding(cell.lease(), on_wait):
        return _done(cell) or _measured(cell, checkout)


def _done(cell: Cell) -> Outcome | None:
    """Return the outcome of a cell whose record is there; None if it is to be measured."""
    path = cell.record_path()
    if not path.exists() or cell.force:
        return None
    load(path)  # a damaged record is an error, not done work
    text = f"{cell.title}: done before, force=true repeats it ({path.stem})"
    return Outcome("found", text, path)


def _measured(cell: Cell, checkout: Path | None) -> Outcome:
    cell.source.prepare()  # now, so that it is not timed as training
    started = time.perf_counter()
    with _track(cell, cell.record_path().stem) as tracked:
        requests = cell.requests()
        trained = _train(cell, requests, tracked)
        answer = _measure(cell, requests, trained)
        if isinstance(answer, Skipped):
            return Outcome("does not apply", f"{cell.title}: {answer.reason}")
        seconds = time.perf_counter() - started
        record = _record(cell, trained, answer, seconds, checkout)
        path = save(record, cell.results / "records")  # first: W&B is only a mirror
        for request in requests:
            request.snapshots().trim()
        _mirror(tracked, record)
    return Outcome("done", f"{cell.title}: {path.stem}", path)


def due(cell: Cell) -> list[Request]:
    """Return the SAEs that `run` would train and that may be trained before it.

    Those of a forced cell are left to the cell: it trains anew whatever is there.
    """
    if cell.why_not() or cell.force or cell.record_path().exists():
        return []
    return [request for request in cell.requests() if not request.is_done()]


def _track(cell: Cell, name: str) -> Run:
    return cell.tracking.start(
        name=cell.title,
        group=cell.experiment or "single",
        tags=[cell.task.name, cell.source.name, cell.method.name],
        job_type=cell.task.name,
        run_id=name,
        config={**cell.config(), "seeds": plain(cell.seeds)},
    )


def _train(cell: Cell, requests: Sequence[Request], tracked: Run) -> list[Checkpoint | Skipped]:
    """Train or find the SAEs of a cell; one whose training diverged is skipped, if it may be.

    Raises UserError if none of them could be trained.
    """

    def log(step: int, parts: dict[str, float]) -> None:
        tracked.log(step, {f"train/{name}": value for name, value in parts.items()})

    trained: list[Checkpoint | Skipped] = []
    reason = ""
    for i, request in enumerate(requests):
        try:
            force = cell.force and cell.task.measures_training
            trained.append(checkpoints.get(request, log=_no_log if i else log, force=force))
        except DivergedError as error:
            if not cell.task.may_diverge:
                raise
            reason = str(error)
            trained.append(Skipped(reason))
    if all(isinstance(outcome, Skipped) for outcome in trained):
        raise UserError(
            f"{cell.title}: none of its {len(trained)} settings could be trained; last: {reason}"
        )
    return trained


def _no_log(step: int, parts: dict[str, float]) -> None:
    """Log nothing: a tracked run shows the curve of one SAE, the cell's own."""


def _measure(
    cell: Cell, requests: Sequence[Request], trained: Sequence[Checkpoint | Skipped]
) -> Scores | Skipped:
    candidates = [_candidate(*each) for each in zip(requests, trained, strict=True)]
    return cell.task.measure_all(candidates, cell.source, cell.seeds.eval)


def _candidate(request: Request, outcome: Checkpoint | Skipped) -> Candidate:
    if isinstance(outcome, Skipped):
        return Candidate(request.method, outcome, {})
    size, snapshots, blank = request.settings.batch_size, request.snapshots(), request.method.blank
    along = [
        Snapshot(step * size, partial(snapshots.load, step, request.device, blank))
        for step in request.along
    ]
    along.append(Snapshot(request.settings.steps * size, lambda: outcome.sae))
    return Candidate(request.method, outcome.sae, outcome.curve, along)


def _record(
    cell: Cell,
    trained: Sequence[Checkpoint | Skipped],
    answer: Scores,
    seconds: float,
    checkout: Path | None,
) -> Record:
    source, first = cell.source, trained[0]
    checkpoints_made = [outcome for outcome in trained if isinstance(outcome, Checkpoint)]
    if cell.task.measures_training:  # the cost of the method, whenever it was paid
        seconds += sum(made.seconds for made in checkpoints_made if made.found)
    return Record(
        task=TaskId(**cell.versioned_task()),
        config=cell.config(),
        seeds=plain(cell.seeds),
        scores=answer.scores,
        intervals={k: list(v) for k, v in answer.intervals.items()},
        n=answer.n,
        skipped=answer.skipped,
        series=dict(answer.series),
        cost={
            "seconds": round(seconds, 2),
            "forward_equivalents": answer.forward_equivalents,
            "tokens": len(checkpoints_made) * cell.fit.steps * cell.fit.batch_size,
            "peak_bytes": _peak_bytes(cell.device),
        },
        provenance=provenance(
            str(cell.device), checkout, **source.provenance(), **_model_notes(cell)
        ),
        about=declarations(cell.method, cell.source, cell.task, answer.scores),
        artifacts={
            "checkpoint": first.id if isinstance(first, Checkpoint) else None,
            "activations": source.activations_id() if isinstance(source, ModelSource) else None,
        },
    )


def _model_notes(cell: Cell) -> dict[str, list[str]]:
    """Return what was slower on the cell's model than on others, where its task ran the model."""
    if not isinstance(cell.task, ModelTask) or not isinstance(cell.source, ModelSource):
        return {}
    notes = cell.source.lm().decoder.notes
    return {"notes": list(notes)} if notes else {}


def _peak_bytes(device: torch.device) -> int:
    """Return the peak memory of this process so far (on the GPU if it ran there)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mirror(tracked: Run, record: Record) -> None:
    """Show the record in the tracker: scores as summary, small tables as tables.

    A tracker takes so many keys; where there are more scores, all of them are a table besides.
    """
    scores = [(name, float(value)) for name, value in record.scores.items()]
    tracked.summary(dict(scores[:MAX_KEYS]))
    if len(scores) > MAX_KEYS:
        tracked.table("scores", ["score", "value"], scores[:MAX_ROWS])
    for name, columns in record.series.items():
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        tracked.table(name, list(columns), rows)
