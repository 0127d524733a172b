"""Every command that reads records, run in this process on a folder of them."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import benchmarks.figures.__main__ as figures
import benchmarks.influence_table as influence_table
import benchmarks.launch.report as report
import benchmarks.launch.site as site
import benchmarks.leaderboard.__main__ as leaderboard
import benchmarks.pages.__main__ as pages
import benchmarks.publish as publish
import benchmarks.recovery_table as recovery_table
import benchmarks.regret as regret
import benchmarks.reproduce as reproduce
import benchmarks.results.reading as reading
from benchmarks.launch.command import command
from benchmarks.render.markdown import markers


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command printed, and how it ended."""

    out: str
    err: str
    status: int


def run(main: Callable[[], None], *words: str) -> Said:
    """Run a command as its module does; an error that is not the user's goes through."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["x", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = command(main)
        except SystemExit as end:
            status = int(end.code or 0)
    return Said(out=out.getvalue(), err=err.getvalue(), status=status)


@contextlib.contextmanager
def elsewhere(records: Path, out: Path) -> Iterator[None]:
    """Let the commands take `records` for the published ones, and write below `out` alone."""
    docs_results = out / "docs" / "results"
    docs_results.mkdir(parents=True, exist_ok=True)
    parts = {"recovery": ("known_features", "growth"), "influence": ("influence_table",)}
    for page, names in parts.items():
        lines = [line for name in names for line in markers(name)]
        (docs_results / f"{page}.md").write_text("\n".join(lines))
    whole, short = docs_results / "influence_all.md", docs_results / "influence.md"
    before = Path.cwd()
    with (
        mock.patch.object(reading, "PUBLISHED", records.resolve()),
        mock.patch.object(regret, "CHOICE", out / "regret_choice.json"),
        mock.patch.object(recovery_table, "RESULTS", docs_results),
        mock.patch.multiple(influence_table, WHOLE=whole, SHORT_PAGE=short),
    ):
        os.chdir(out)
        try:
            yield
        finally:
            os.chdir(before)


def quick(records: Path, out: Path) -> dict[str, Callable[[], Said]]:
    """Return the commands that take less than a second, by name."""
    read = ("--records", str(records))
    return {
        "board": lambda: run(leaderboard.main, *read, "--out", str(out / "board"), "--no-figures"),
        "pages": lambda: run(pages.main, *read, "--out", str(out / "pages")),
        "reproduce": lambda: run(reproduce.main, *read),
        "regret": lambda: run(regret.main, *read),
        "choose": lambda: run(regret.main, *read, "--choose"),
        "recovery_table": lambda: run(recovery_table.main, *read),
        "influence_table": lambda: run(influence_table.main, *read),
        "publish": lambda: run(
            lambda: publish.publish(
                publish.parse(
                    ["--all", "--allow-dirty", "--from", str(records), "--to", str(out / "to")]
                )
            )
        ),
        "summary": lambda: run(lambda: _summary(records)),
    }


def slow(records: Path, out: Path) -> dict[str, Callable[[], Said]]:
    """Return the commands that draw, by name."""
    return {
        "figures": lambda: run(
            figures.main, "--records", str(records), "--out", str(out / "figures")
        ),
        "site": lambda: run(lambda: _site(records, out / "site")),
    }


def _summary(records: Path) -> None:
    """Print the table that a run ends with."""
    sys.stdout.write(report._table(report._entries(sorted(records.glob("*.json")))))


def _site(records: Path, out: Path) -> None:
    """Write the page that a sweep ends with, as the sweep does."""
    site.write_site(report._entries(sorted(records.glob("*.json"))), ["it failed"], out)
