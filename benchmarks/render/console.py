"""Plain text tables for the terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.render.table import MAX_CELL, console_table
from benchmarks.results.declared import printable
from benchmarks.results.labels import labels
from benchmarks.results.reading import LOCAL_ORIGIN, Entry
from benchmarks.results.rows import columns, make_lines
from benchmarks.results.settings import Cell, Estimate, make_cells
from benchmarks.results.vocabulary import format_score
from gradsae.records.record import Record


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table of a summary, ready to print."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def summary_table(records: Iterable[Record]) -> str:
    """Return the summary of records for a terminal."""
    return "\n\n".join(_printed(sheet) for sheet in summaries(records))


def summaries(records: Iterable[Record]) -> list[Sheet]:
    """Return the main scores: a sheet per task, version and source with a row per method, means
    over seeds, and after it what was asked further of a method."""
    entries = [Entry(record=r, path=Path(f"{r.id}.json"), origin=LOCAL_ORIGIN) for r in records]
    groups: dict[tuple[str, int, str], list[Cell]] = {}
    for cell in make_cells(entries):
        key = (cell.task, cell.first.task["version"], source_name(cell))
        groups.setdefault(key, []).append(cell)
    sheets: list[Sheet] = []
    for cells in groups.values():
        sheets += [_summary(cells), *(sheet for cell in cells if (sheet := further(cell)))]
    return sheets


def _printed(sheet: Sheet) -> str:
    title = printable(sheet.title, MAX_CELL)
    return "\n".join([title, console_table(sheet.headers, sheet.rows), *sheet.notes])


def mean_text(estimate: Estimate | None) -> str:
    """`0.912 ±0.013`: the mean, and half of the 95 % interval over seeds where there is one."""
    if estimate is None:
        return "-"
    text = format_score(estimate.mean)
    if estimate.over != "seeds" or estimate.high is None:
        return text
    return f"{text} ±{format_score(estimate.high - estimate.mean)}"


def source_name(cell: Cell) -> str:
    """`resid_post.15 code` for a layer, the name of the source elsewhere."""
    parts = [cell.site, cell.setup.corpus.name]
    return " ".join(filter(None, parts)) or cell.setup.source.name or "?"


def _summary(cells: Sequence[Cell]) -> Sheet:
    lines = make_lines(cells, labels(cells))
    task = cells[0].first.task
    names = [n for n in columns(lines) if not cells[0].score(n).detail]
    n_inside = [line.n_inside for line in lines]
    counted = [cells[0].score(names[0]).over] if names and None not in n_inside else []
    rows = [
        [
            line.label,
            str(line.cell.n_seeds),
            *([str(n)] if counted else []),
            *(mean_text(line.estimate(name)) for name in names),
            format_score(line.cell.seconds),
            _records(line.cell),
        ]
        for line, n in zip(lines, n_inside, strict=True)
    ]
    title = f"{task['name']}, version {task['version']}, on {source_name(cells[0])}"
    headers = [
        "method",
        "seeds",
        *counted,
        *(cells[0].score(name).header for name in names),
        "seconds",
        "record",
    ]
    noise = [text for cell in cells if (text := noise_text(cell))]
    return Sheet(title=title, headers=headers, rows=rows, notes=noise)


def further(cell: Cell) -> Sheet | None:
    """Return Spearman for each further scalar and truth that was asked of a cell, a column each."""
    first = "influence/spearman."
    found = [n.removeprefix(first) for n in cell.first.scores if n.startswith(first)]
    if not found:
        return None
    asked = list(dict.fromkeys(name.partition("/")[0] for name in found))
    rows = [
        [
            cell.variant(estimator).label,
            *(mean_text(cell.estimate(f"{first}{label}/{estimator}")) for label in asked),
        ]
        for estimator in dict.fromkeys(name.partition("/")[2] for name in found)
    ]
    title = f"Spearman for further scalars and truths ({_records(cell)})"
    return Sheet(title=title, headers=["estimator", *asked], rows=rows)


def noise_text(cell: Cell) -> str | None:
    """What rounding alone does to the target beside a typical true effect; of influence only."""
    found = [
        cell.mean(f"influence/{name}")
        for name in ("noise_floor/no_op_edit", "noise_floor", "median_abs_effect", "above_noise")
    ]
    if None in found:
        return None
    no_op, rounding, effect, above = map(format_score, found)
    return (
        f"noise floor ({_records(cell)}): {no_op} by edits that change nothing, {rounding} by "
        f"rounding; median |effect| {effect}, share above the floor {above}"
    )


def _records(cell: Cell) -> str:
    return cell.first.id if len(cell.records) == 1 else f"{len(cell.records)} records"
