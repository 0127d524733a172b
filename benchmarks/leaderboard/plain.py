"""The board as plain text: console tables, CSV, Markdown."""

import csv
import io
from collections.abc import Sequence

from benchmarks.leaderboard.board import Row, Table
from benchmarks.render.console import mean_text
from benchmarks.results.vocabulary import format_score
from gradsae.tables.printing import console_table, escaped, markdown_table

CSV_COLUMNS = (
    *("task", "version", "source", "method", "variant", "rank", "unranked", "badge"),
    *(
        "score",
        "mean",
        "low",
        "high",
        "n",
        "interval_over",
        "seeds",
        "seconds",
        "commit",
        "records",
    ),
)


def console(tables: Sequence[Table]) -> str:
    return "\n\n".join(
        f"{table.heading}, version {table.version}\n{console_table(*_grid(table))}"
        for table in tables
    )


def markdown(tables: Sequence[Table]) -> str:
    parts = ["# Leaderboard\n"]
    for table in tables:
        headers, rows = _grid(table)
        text = markdown_table(headers, rows)
        parts.append(f"## {escaped(table.heading)}, version {table.version}\n\n{text}\n")
    return "\n".join(parts)


def table_csv(tables: Sequence[Table]) -> str:
    """Return a line per row and score, for other programs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for row in table.rows:
            writer.writerows(_csv_lines(table, row))
        for name, chance in table.chance.items():
            line = [*_csv_table(table), "chance", "chance", "", "control", "", name]
            writer.writerow([*line, chance.mean, "", "", chance.n, "", "", "", "", ""])
    return out.getvalue()


def commit(row: Row) -> str:
    """Return the short commit of the newest record, and the number of others."""
    records = sorted(row.line.setting.records, key=lambda record: record.created)
    commits = {str(r.provenance["commit"] or "unknown")[:7]: r for r in records}
    newest = str(records[-1].provenance["commit"] or "unknown")[:7]
    dirty = "*" if any(r.provenance["dirty"] is not False for r in records) else ""
    return f"{newest}{dirty}" + (f" +{len(commits) - 1}" if len(commits) > 1 else "")


def _grid(table: Table) -> tuple[list[str], list[list[str]]]:
    headers = [
        "method",
        *(table.score(name).header for name in table.columns),
        "seeds",
        "seconds",
        "badge",
        "commit",
    ]
    rows = [
        [
            row.label,
            *(mean_text(row.scores.get(name)) for name in table.columns),
            str(row.line.setting.n_seeds),
            format_score(row.line.setting.seconds),
            row.badge,
            commit(row),
        ]
        for row in table.rows
    ]
    if table.chance:
        chances = [table.chance.get(name) for name in table.columns]
        means = [format_score(mean.mean if mean else None) for mean in chances]
        rows.append(["chance", *means, "", "", "", ""])
    if not table.ranked_by:
        return headers, rows
    ranks = [str(row.rank) if row.rank else f"({row.unranked})" for row in table.rows]
    ranks += ["(control)"] * bool(table.chance)
    return ["rank", *headers], [[rank, *row] for rank, row in zip(ranks, rows, strict=True)]


def _csv_table(table: Table) -> list[str]:
    return [_safe(table.task), str(table.version), _safe(table.title)]


def _csv_lines(table: Table, row: Row) -> list[list[object]]:
    setting = row.line.setting
    start = [*_csv_table(table), _safe(row.line.label), _safe(row.line.variant)]
    start += [str(row.rank or ""), _safe(row.unranked), _safe(row.badge)]
    ids = " ".join(record.id for record in setting.records)
    end = [setting.n_seeds, "" if setting.seconds is None else setting.seconds, commit(row), ids]
    return [
        [
            *start,
            *(name, estimate.mean, "" if estimate.low is None else estimate.low),
            *("" if estimate.high is None else estimate.high, estimate.n, estimate.over),
            *end,
        ]
        for name, estimate in row.scores.items()
    ]


def _safe(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
