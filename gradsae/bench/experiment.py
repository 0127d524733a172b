"""Cell -> record: trains or finds the SAE of a cell, measures it and saves what was found."""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

import torch

from gradsae.bench.cell import TRAINING_TASKS, Cell
from gradsae.bench.tracking import MAX_KEYS, MAX_ROWS, NoRun, Run
from gradsae.errors import DivergedError, UserError
from gradsae.interfaces import ModelSource, Scores, Skipped
from gradsae.metrics.once import sharing
from gradsae.records.provenance import provenance
from gradsae.records.record import Record, load, save
from gradsae.records.shapes import TaskId
from gradsae.sae.dictionary import Dictionary
from gradsae.storage.files import check_writable
from gradsae.training import checkpoints
from gradsae.training.checkpoints import Checkpoint, Wanted, plain


@final
@dataclass(frozen=True)
class Outcome:
    """What became of a cell."""

    status: Literal["done", "found", "does not apply"]
    text: str
    """One line for a person."""
    record: Path | None = None


def run(cell: Cell, checkout: Path | None = None) -> Outcome:
    """Measure one cell and save its record; skip it if this machine has done it.

    The record names the commit of `checkout`, where that is given: see `provenance`.
    """
    if why := cell.why_not():
        return Outcome("does not apply", f"{cell.title}: {why}")
    check_writable(cell.results)  # before the work, not after it
    path = cell.record_path()
    if path.exists() and not cell.force:
        load(path)  # a damaged record is an error, not done work
        done = f"done before, force=true repeats it ({path.stem})"
        return Outcome("found", f"{cell.title}: {done}", path)
    cell.source.d_in()  # harvests, where one is due
    started = time.perf_counter()
    with _track(cell, path.stem) as tracked:
        outcomes = _settings(cell, tracked) if cell.task == "grid" else [_own(cell, tracked)]
        answer = _measure(cell, outcomes)
        if isinstance(answer, Skipped):
            return Outcome("does not apply", f"{cell.title}: {answer.reason}")
        seconds = time.perf_counter() - started
        if cell.task in TRAINING_TASKS:  # the cost of the method, whenever it was paid
            seconds += sum(each.seconds for each in _trained(outcomes) if each.found)
        record = _record(cell, outcomes, answer, seconds, checkout)
        path = save(record, cell.results / "records")  # first: W&B is only a mirror
        _mirror(tracked, record)
    return Outcome("done", f"{cell.title}: {path.stem}", path)


def due(cell: Cell) -> list[Wanted]:
    """Return the SAEs that `run` would train and that may be trained before it.

    Those of a forced cell are left to the cell: it trains anew whatever is there.
    """
    if cell.why_not() or cell.force or cell.record_path().exists():
        return []
    return [wanted for wanted in cell.wanted() if not wanted.folder().exists()]


def _track(cell: Cell, name: str) -> Run:
    return cell.tracking.start(
        name=cell.title,
        group=cell.experiment or "single",
        tags=[cell.task, cell.source.name, cell.trainer.name],
        job_type=cell.task,
        run_id=name,
        config={**cell.config(), "seeds": plain(cell.seeds)},
    )


def _checkpoint(cell: Cell, wanted: Wanted, tracked: Run) -> Checkpoint:
    return checkpoints.get(
        wanted,
        log=lambda step, parts: tracked.log(step, {f"train/{k}": v for k, v in parts.items()}),
        force=cell.force and cell.task in TRAINING_TASKS,
    )


def _own(cell: Cell, tracked: Run) -> Checkpoint:
    return _checkpoint(cell, cell.wanted()[0], tracked)


def _settings(cell: Cell, tracked: Run) -> list[Checkpoint | Skipped]:
    """Return the SAE of each setting of a grid, or why it has none; UserError if none has one."""
    outcomes: list[Checkpoint | Skipped] = []
    reason = ""
    for wanted in cell.wanted():
        try:
            outcomes.append(_checkpoint(cell, wanted, tracked))
        except DivergedError as error:
            reason = str(error)
            outcomes.append(Skipped(reason))
    if not _trained(outcomes):
        n = len(outcomes)
        raise UserError(f"{cell.title}: none of its {n} settings could be trained; last: {reason}")
    return outcomes


def _trained(outcomes: Sequence[Checkpoint | Skipped]) -> list[Checkpoint]:
    return [each for each in outcomes if isinstance(each, Checkpoint)]


def _measure(cell: Cell, outcomes: Sequence[Checkpoint | Skipped]) -> Scores | Skipped:
    sae, seed = _trained(outcomes)[0].sae, cell.seeds.eval
    match cell.task:
        case "recovery":
            return _recovery(cell, sae)
        case "grid":
            assert cell.grid is not None
            answers = [
                _recovery(cell, each.sae) if isinstance(each, Checkpoint) else each
                for each in outcomes
            ]
            return cell.grid.table(cell.trainers(), answers)
        case "consistency":
            runs = [sae] + [_checkpoint(cell, other, NoRun()).sae for other in cell.wanted()[1:]]
            return cell.consistency.compare(runs, cell.source, seed)
        case task:
            return cell.on_models[task].measure(sae, cell.source, seed)


def _recovery(cell: Cell, sae: Dictionary) -> Scores:
    seed = cell.seeds.eval
    with sharing():
        return _merge({k: m.measure(sae, cell.source, seed) for k, m in cell.metrics.items()})


def _merge(answers: dict[str, Scores | Skipped]) -> Scores:
    """Put the answers of several metrics together."""
    merged = Scores(scores={})
    for name, answer in answers.items():
        if isinstance(answer, Skipped):
            merged.skipped[name] = answer.reason
            continue
        for field in ("scores", "intervals", "n", "series", "skipped"):
            getattr(merged, field).update(getattr(answer, field))
    spent = sum(a.forward_equivalents for a in answers.values() if isinstance(a, Scores))
    return replace(merged, forward_equivalents=spent)


def _record(
    cell: Cell,
    outcomes: Sequence[Checkpoint | Skipped],
    answer: Scores,
    seconds: float,
    checkout: Path | None,
) -> Record:
    series, source, own = dict(answer.series), cell.source, outcomes[0]
    if cell.task == "recovery" and isinstance(own, Checkpoint):
        series["training/curve"] = dict(own.curve)
    store = source.activations_id() if isinstance(source, ModelSource) else None
    return Record(
        task=TaskId(**cell.versioned_task()),
        config=cell.config(),
        seeds=plain(cell.seeds),
        scores=answer.scores,
        intervals={k: list(v) for k, v in answer.intervals.items()},
        n=answer.n,
        skipped=answer.skipped,
        series=series,
        cost={
            "seconds": round(seconds, 2),
            "forward_equivalents": answer.forward_equivalents,
            "tokens": len(_trained(outcomes)) * cell.fit.steps * cell.fit.batch_size,
            "peak_bytes": _peak_bytes(cell.device),
        },
        provenance=provenance(str(cell.device), checkout, **source.provenance()),
        artifacts={
            "checkpoint": own.id if isinstance(own, Checkpoint) else None,
            "activations": store,
        },
    )


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
