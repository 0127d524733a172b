"""The board as one HTML page that needs no network: style, script and figures are inside."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.figures.__main__ import FigureFiles
from benchmarks.leaderboard.board import Row, Table
from benchmarks.leaderboard.plain import commit
from benchmarks.render import html
from benchmarks.results.commands import commands_of
from benchmarks.results.reading import Entry
from benchmarks.results.settings import MIN_SEEDS, Estimate
from benchmarks.results.vocabulary import format_score


def render(tables: Sequence[Table], figures: Sequence[FigureFiles], out: Path) -> str:
    """Return the page; links to records are relative to `out`."""
    records = {r.id: r for table in tables for row in table.rows for r in row.line.setting.records}

    def link(entry: Entry) -> str:
        return quote(Path(os.path.relpath(entry.path, out)).as_posix())

    return html.render(
        "board.html.j2",
        style="board.css",
        script="board.js",
        tasks=[_task(task, tables) for task in dict.fromkeys(t.task for t in tables)],
        figures=figures,
        notes=_notes(tables),
        n_records=len(records),
        newest=max((record.created for record in records.values()), default="")[:10],
        arrows={"higher": " ↑", "lower": " ↓", "": ""},
        link=link,
        **{"title": _title, "interval": _interval, "kind": _kind, "commit": commit},
        commands=_commands,
    )


def _task(task: str, tables: Sequence[Table]) -> dict[str, Any]:
    same_task = [table for table in tables if table.task == task]
    return {
        "name": task,
        "question": same_task[0].question,
        "ranking": _ranking(task, same_task),
        "tables": same_task,
    }


def _ranking(task: str, tables: Sequence[Table]) -> str:
    words = (
        f"Mean ± half of the 95 % interval over seeds; in brackets, with one seed, the 95 % "
        f"interval over its prompts, windows or rows. A row is ranked from {MIN_SEEDS} seeds on; "
        "rows that their intervals do not set apart share a rank."
    )
    score = next((table.ranked_by for table in tables if table.ranked_by), "")
    if any(row.rank for table in tables for row in table.rows) and score:
        words = f"Ranked by {tables[0].score(score).header}. {words}"
    if len({table.version for table in tables}) > 1:
        words += " Versions of the task are not comparable and have tables of their own."
    return words


def _title(table: Table) -> str:
    name = f"{table.title}, version {table.version} of the task"
    if table.weights:
        name += f"; weights {table.weights}"
    if not table.ranked_by:
        name += "; not ranked: there is no ground truth, compare methods at like L0"
    return name


def _interval(estimate: Estimate) -> str:
    """Return the words that appear over a score."""
    if estimate.low is None or estimate.high is None:
        return f"one value or none of {MIN_SEEDS} seeds: no interval"
    ends = f"{format_score(estimate.low)} to {format_score(estimate.high)}"
    return f"95 %: {ends}, over {estimate.n} {estimate.over}"


def _kind(row: Row) -> str:
    if "reproduced" in row.badge:
        return "reproduced"
    return {"own": "own", "this machine": "local"}.get(row.badge, "reported")


def _commands(row: Row) -> list[str]:
    """Return the commands that run the records of a row again."""
    return commands_of(row.line.setting.records)


def _notes(tables: Sequence[Table]) -> dict[str, Any]:
    """Return the declared scores of the tables by name, those with a meaning."""
    shown = {name: table.score(name) for table in tables for name in table.columns}
    return {name: about for name, about in shown.items() if about.meaning}
