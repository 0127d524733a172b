"""The board as one HTML page that needs no network: style, script and figures are inside."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from benchmarks.figures.__main__ import Drawn
from benchmarks.leaderboard.board import RANKED_BY, TASKS, Row, Table
from benchmarks.leaderboard.html import Html, caption, element, fingerprint, join
from benchmarks.leaderboard.plain import commit
from benchmarks.results.settings import MIN_SEEDS, Estimate
from benchmarks.results.vocabulary import format_score
from gradsae.about import Score

HERE = Path(__file__).parent


def render(tables: Sequence[Table], figures: Sequence[Drawn], out: Path) -> str:
    """The page; links to records are relative to `out`."""
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src {fingerprint(style)}; "
        f"script-src {fingerprint(script)}; base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", "gradsae leaderboard"),
        element("style", Html(style)),
    )
    body = element(
        "body",
        _header(tables),
        element(
            "main",
            *(_task(task, tables, out) for task in dict.fromkeys(t.task for t in tables)),
            _figures(figures),
            _notes(tables),
        ),
        element("script", Html(script)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _header(tables: Sequence[Table]) -> Html:
    records = {r.id: r for table in tables for row in table.rows for r in row.line.cell.records}
    newest = max((record.created for record in records.values()), default="")[:10]
    tasks = dict.fromkeys(table.task for table in tables)
    links = [element("a", task.capitalize(), href=f"#{_anchor(task)}") for task in tasks]
    links += [element("a", name, href=f"#{name.lower()}") for name in ("Figures", "Notes")]
    field = element(
        "input", type="search", id="filter", placeholder="for example topk", autocomplete="off"
    )
    return element(
        "header",
        element("h1", "gradsae leaderboard"),
        element(
            "p",
            f"Sparse autoencoders: do they recover the features, and which latents move the "
            f"model? {len(records)} records, the newest of {newest}.",
        ),
        element("nav", *links, aria_label="Sections"),
        element(
            "p",
            element("label", "Filter rows ", for_="filter"),
            field,
            element("span", id="filtered", role="status"),
            id="search",
            hidden=True,  # until the script runs
        ),
    )


def _task(task: str, tables: Sequence[Table], out: Path) -> Html:
    of_task = [table for table in tables if table.task == task]
    return element(
        "section",
        element("h2", TASKS.get(task, task)),
        element("p", _ranking(task, of_task), class_="note"),
        *(_table(table, out) for table in of_task),
        id=_anchor(task),
    )


def _ranking(task: str, tables: Sequence[Table]) -> str:
    words = (
        f"Mean ± half of the 95 % interval over seeds; in brackets, with one seed, the 95 % "
        f"interval over its prompts, windows or rows. A row is ranked from {MIN_SEEDS} seeds on; "
        "rows that their intervals do not set apart share a rank."
    )
    score = RANKED_BY.get(task)
    if any(row.rank for table in tables for row in table.rows) and score:
        words = f"Ranked by {tables[0].score(score).header}. {words}"
    if len({table.version for table in tables}) > 1:
        words += " Versions of the task are not comparable and have tables of their own."
    return words


def _table(table: Table, out: Path) -> Html:
    heads = [_head("rank")] if table.ranked_by else []
    heads += [_head("method"), _head("seeds")]
    heads += [_head(table.score(name).header, table.score(name)) for name in table.columns]
    heads += [_head(title) for title in ("seconds", "badge", "commit", "records")]
    rows = [_row(table, row, out) for row in table.rows]
    if table.chance:
        rows.append(_chance(table))
    name = f"{table.title}, version {table.version} of the task"
    if table.weights:
        name += f"; weights {table.weights}"
    if not table.ranked_by:
        name += "; not ranked: there is no ground truth, compare methods at like L0"
    return element(
        "div",
        element(
            "table",
            element("caption", element("span", name)),
            element("thead", element("tr", *heads)),
            element("tbody", *rows),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=name,
    )


def _head(title: str, about: Score | None = None) -> Html:
    """A head that sorts; better scores come first on the first click."""
    if title == "records":
        return element("th", title, scope="col")
    better = about.better if about else ""
    arrow = {"higher": " ↑", "lower": " ↓"}.get(better, "")
    down = "descending" if better == "higher" else "ascending"
    button = element("button", title, arrow, type="button", data_first=down)
    return element(
        "th",
        button,
        scope="col",
        aria_sort="none",
        title=about.meaning or None if about else None,
        class_="number" if about or title in ("seeds", "seconds") else None,
    )


def _row(table: Table, row: Row, out: Path) -> Html:
    cell = row.line.cell
    rank = element(
        "td",
        str(row.rank) if row.rank else element("span", row.unranked, class_="reason"),
        data_value=str(row.rank) if row.rank else "",
    )
    return element(
        "tr",
        rank if table.ranked_by else None,
        element("th", row.line.label, scope="row"),
        _number(cell.n_seeds),
        *(_score(row.scores.get(name)) for name in table.columns),
        _number(cell.seconds),
        element("td", element("span", row.badge, class_=f"badge {_kind(row)}")),
        element("td", element("code", commit(row))),
        element("td", _records(row, out)),
        class_="control" if row.line.is_control else None,
    )


def _score(found: Estimate | None) -> Html:
    if found is None:
        return element("td", "-", data_value="", class_="number")
    spread = None
    title = f"one value or none of {MIN_SEEDS} seeds: no interval"
    if found.low is not None and found.high is not None:
        over = f"{found.n} {found.over}"
        title = f"95 %: {format_score(found.low)} to {format_score(found.high)}, over {over}"
        spread = element("small", f" ±{format_score(found.high - found.mean)}")
        if found.over != "seeds":
            ends = f"{format_score(found.low)}, {format_score(found.high)}"
            spread = element("small", f" [{ends}]")
    value = format_score(found.mean)
    return element("td", value, spread, data_value=repr(found.mean), class_="number", title=title)


def _number(value: float | None) -> Html:
    shown = str(value) if isinstance(value, int) else format_score(value)
    return element("td", shown, class_="number", data_value="" if value is None else repr(value))


def _chance(table: Table) -> Html:
    found = [table.chance.get(name) for name in table.columns]
    cells = [_number(mean.mean if mean else None) for mean in found]
    rank = element("td", element("span", "control", class_="reason"), data_value="")
    return element(
        "tr",
        rank if table.ranked_by else None,
        element("th", "chance: random directions", scope="row"),
        element("td"),
        *cells,
        *(element("td") for _ in range(4)),
        class_="control",
    )


def _kind(row: Row) -> str:
    if "reproduced" in row.badge:
        return "reproduced"
    return {"own": "own", "this machine": "local"}.get(row.badge, "reported")


def _records(row: Row, out: Path) -> Html:
    """Links to the files, and the command that runs them again."""
    links: list[str] = []
    for entry in row.line.cell.entries:
        path = Path(os.path.relpath(entry.path, out)).as_posix()
        links += [element("a", entry.record.id[:7], href=quote(path)), " "]
    commands = dict.fromkeys(r.provenance["command"] for r in row.line.cell.records)
    return element(
        "details",
        element("summary", str(len(row.line.cell.entries))),
        *links,
        *(element("code", command, class_="command") for command in commands),
    )


def _figures(figures: Sequence[Drawn]) -> Html:
    return element(
        "section",
        element("h2", "Figures"),
        *(_figure(drawn) for drawn in figures),
        id="figures",
    )


def _figure(drawn: Drawn) -> Html:
    svg = next(path for path in drawn.files if path.suffix == ".svg").read_bytes()
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    words = drawn.caption.split("\n\n")[0].replace("*", "")
    paragraphs = [element("p", caption(part)) for part in drawn.caption.strip().split("\n\n")]
    return element(
        "figure", element("img", src=source, alt=words), element("figcaption", *paragraphs)
    )


def _notes(tables: Sequence[Table]) -> Html:
    shown = {name: table.score(name) for table in tables for name in table.columns}
    items: list[Html] = []
    for name, about in shown.items():
        if about.meaning:
            better = f"; {about.better} is better" if about.better else ""
            items += [
                element("dt", about.header, " ", element("code", name)),
                element("dd", f"{about.meaning} Range: {about.bounds}{better}."),
            ]
    badges = (
        "Badges. own: made by the project and published in the repository; self-reported: sent "
        "in by the one who is named; reproduced: the project ran the same setting, and the "
        "intervals overlap; this machine: local, not published. A commit with a star: the code "
        "had changes that are in no commit, or the commit is unknown."
    )
    return element(
        "section",
        element("h2", "Notes"),
        element("dl", *items),
        element("p", join(badges)),
        id="notes",
    )


def _anchor(task: str) -> str:
    return f"task-{task}"
