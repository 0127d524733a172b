"""The page of a run: its tables and figures, its prompts one page each, and its board."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures.__main__ import draw_all
from benchmarks.leaderboard.board import make_tables
from benchmarks.leaderboard.page import render as board
from benchmarks.pages.page import index, pages_of
from benchmarks.render import html
from benchmarks.render.console import summaries
from benchmarks.results.reading import LOCAL_ORIGIN, Entry
from benchmarks.results.settings import Setting, make_settings
from gradsae.records.record import load
from gradsae.storage.files import write_whole

MOST_PAGES = 10
"""Prompts of one record that get a page."""


def write_site(paths: Sequence[Path], failures: Sequence[str], out: Path) -> tuple[Path, list[str]]:
    """Write the site of these records; return its first page, and why figures are missing."""
    entries = [Entry(record=load(path), path=path, origin=LOCAL_ORIGIN) for path in paths]
    settings = make_settings(entries)
    said = io.StringIO()  # names every figure that these records do not have: most of them
    with contextlib.redirect_stdout(said):
        figures, problems = draw_all(settings, out / "figures")
    write_whole(out / "board.html", board(make_tables(settings), figures, out))
    n_pages = _write_prompts(entries, out)
    records = [entry.record for entry in entries]
    newest = max(records, key=lambda record: record.created)
    page = html.render(
        "run.html.j2",
        style="board.css",
        experiment=newest.setup.experiment or "run",
        n_records=len(records),
        newest=newest,
        sheets=summaries(records),
        figures=figures,
        n_pages=n_pages,
        failures=failures,
    )
    write_whole(out / "index.html", page)
    return out / "index.html", problems


def _write_prompts(entries: Sequence[Entry], out: Path) -> int:
    """Write a page for each prompt and the list of them; return how many there are."""
    listed: list[tuple[Setting, Any]] = []
    for entry in entries:
        if pages := pages_of(entry.record)[:MOST_PAGES]:
            listed.append((Setting((entry,)), pages))
    if not listed:
        return 0
    (out / "prompts").mkdir(parents=True, exist_ok=True)
    for _, pages in listed:
        for page in pages:
            write_whole(out / "prompts" / page.file, page.html)
    write_whole(out / "prompts" / "index.html", index(listed))
    return sum(len(pages) for _, pages in listed)
