"""The page of a run: its tables and figures, its prompts one page each, and its board."""

import contextlib
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.figures.__main__ import FigureFiles, draw_all
from benchmarks.leaderboard.board import make_tables
from benchmarks.leaderboard.page import render as board
from benchmarks.pages.page import index, pages_by_setting
from benchmarks.render import html
from benchmarks.render.console import summaries
from benchmarks.results.reading import Entry
from benchmarks.results.settings import make_settings
from benchmarks.results.tolerance import tolerant
from gradsae.storage.files import write_whole

MOST_PAGES = 10
"""Prompts of one record that get a page."""


def write_site(
    entries: Sequence[Entry], failures: Sequence[str], out: Path
) -> tuple[Path, list[str]]:
    """Write the site of these records; return its first page, and why figures are missing."""
    messages = io.StringIO()  # names every figure that these records do not have: most of them
    with contextlib.redirect_stdout(messages):
        figures, problems = draw_all(make_settings(entries), out / "figures")
    write = partial(_write_board, figures, out)
    tolerant(write, entries, str, "the board")
    n_pages = _write_prompts(entries, out)
    page = partial(_page, figures, failures, n_pages)
    write_whole(out / "index.html", tolerant(page, entries, str, "the first page"))
    return out / "index.html", problems


def _write_board(figures: Sequence[FigureFiles], out: Path, entries: Sequence[Entry]) -> None:
    write_whole(out / "board.html", board(make_tables(make_settings(entries)), figures, out))


def _page(
    figures: Sequence[FigureFiles], failures: Sequence[str], n_pages: int, entries: Sequence[Entry]
) -> str:
    """Return the first page: what failed, the tables and the figures."""
    records = [entry.record for entry in entries]
    newest = max(records, key=lambda record: record.created)
    return html.render(
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


def _write_prompts(entries: Sequence[Entry], out: Path) -> int:
    """Write a page for each prompt and the list of them; return how many there are."""
    listed = pages_by_setting(entries, MOST_PAGES)
    if not listed:
        return 0
    (out / "prompts").mkdir(parents=True, exist_ok=True)
    for _, pages in listed:
        for page in pages:
            write_whole(out / "prompts" / page.file, page.html)
    write_whole(out / "prompts" / "index.html", index(listed))
    return sum(len(pages) for _, pages in listed)
