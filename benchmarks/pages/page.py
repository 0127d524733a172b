"""Pages of a record: the prompts that its series hold, one page each. Nothing is run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.render import html
from benchmarks.results.declared import about_variant
from benchmarks.results.reading import Entry
from benchmarks.results.settings import Setting, n_asked, sae_title, site_order
from benchmarks.results.tolerance import leave_out, reason
from benchmarks.results.vocabulary import format_score
from gradsae.records.record import Record

N_FIRST = 10
"""Ranks that are marked: the top K of most scores."""
MOST_SCORES = 8
"""Rankings that are shown with their scores; of more, the rank alone."""
MOST_LETTERS = 60
"""Of a prompt, in the list of pages."""
TRUTHS = ("oracle", "effect")

COLOURS = (
    "In the table below, a number is a method's score with its rank (of many methods the rank "
    "alone); green: among the first ten of that method and of the truth; struck through: of that "
    "method alone; bold red: of the truth, but missed by that method."
)
LEGEND = f"Marked: where the ten latents of largest true effect are strongest. {COLOURS}"


@dataclass(frozen=True, kw_only=True)
class Page:
    """One prompt of a record."""

    file: str
    title: str
    """`prompt 0`: its number within the record."""
    about: str
    """Words of the prompt, for the list of pages."""
    html: str


def pages_of(record: Record) -> list[Page]:
    """Return the pages that a record has something for; none for other tasks."""
    kinds = {
        "masking/latents": ("question", _masking_page),
        "influence/latents": ("prompt", _influence_page),
        "influence/scatter": ("prompt", _sampled_page),
        "steering/samples": ("prompt", _samples_page),
    }
    for series, (column, page) in kinds.items():
        if column in record.series.get(series, {}):
            return [page(record, value) for value in _distinct(record, series, column)]
    return []


def pages_by_setting(entries: Iterable[Entry], most: int) -> list[tuple[Setting, list[Page]]]:
    """Return the first pages of each record that has some.

    One whose series are not what its name says is named on stderr and left out.
    """
    listed: list[tuple[Setting, list[Page]]] = []
    for entry in entries:
        try:
            pages = pages_of(entry.record)[:most]
        except Exception as error:
            leave_out(f"record {entry.record.id}, of the pages: {reason(error)}")
            continue
        if pages:
            listed.append((Setting((entry,)), pages))
    return listed


def index(listed: Sequence[tuple[Setting, Sequence[Page]]]) -> str:
    """Return the list of pages: by task and SAE, in the order of the tables, most asked first."""
    tasks: dict[str, list[dict[str, Any]]] = {}
    for task in sorted({setting.task for setting, _ in listed}):
        same_task = sorted(
            (each for each in listed if each[0].task == task), key=lambda e: _order(e[0])
        )
        tasks[task] = [
            {"title": sae_title(setting), "about": _about(setting), "pages": pages}
            for setting, pages in same_task
        ]
    return html.render("prompts.html.j2", style="prompt.css", tasks=tasks)


def _order(setting: Setting) -> tuple[Any, ...]:
    return *site_order(setting), setting.depth or 0, -n_asked(setting), setting.first.id


def _about(setting: Setting) -> str:
    """Return experiment, number of prompts and id of a record."""
    n, noun = n_asked(setting), "questions" if setting.task == "masking" else "prompts"
    parts = [setting.first.setup.experiment, f"{n} {noun}" if n else None, setting.first.id]
    return ", ".join(part for part in parts if part)


def _masking_page(record: Record, question: int) -> Page:
    """Show a question, its latents, and how much of the answer goes with each ranking."""
    row = _only(record, "masking/questions", "question", question)[0]
    latents = _only(record, "masking/latents", "question", question)
    tokens = _only(record, "masking/tokens", "question", question)
    lines = row["text"].strip().splitlines()
    question_line = next((line for line in reversed(lines) if "?" in line), lines[-1])
    return _page(
        record,
        f"question {_number(question)}",
        f"{question_line} {row['answer']}",
        kind="masking",
        row=row,
        text=tokens,
        peaks={row["peak"] for row in latents if row.get("rank.oracle", N_FIRST) <= N_FIRST},
        legend=LEGEND,
        table=_latents(record, latents, tokens),
        curve=_curve(record),
    )


def _influence_page(record: Record, prompt: int) -> Page:
    """Show a prompt of an influence record: its tokens, and the first latents of each ranking."""
    row = _only(record, "influence/per_prompt", "prompt", prompt)[0]
    latents = _only(record, "influence/latents", "prompt", prompt)
    tokens = _only(record, "influence/tokens", "prompt", prompt)
    return _page(
        record,
        f"prompt {_number(prompt)}",
        _end(row["text"]),
        kind="influence",
        row=row,
        text=tokens,
        peaks={row["peak"] for row in latents if row["rank.effect"] <= N_FIRST},
        legend=LEGEND,
        table=_latents(record, latents, tokens),
    )


def _sampled_page(record: Record, prompt: int) -> Page:
    """Show a prompt of an old record: the latents that its scatter holds."""
    row_of_prompt = next(iter(_only(record, "influence/per_prompt", "prompt", prompt)), None)
    rows = _only(record, "influence/scatter", "prompt", prompt)
    names = [name for name in rows[0] if name not in ("prompt", "latent", "truth", "scalar")]
    names = [name for name in names if isinstance(rows[0][name], int | float)]
    for name in names:
        order = sorted(range(len(rows)), key=lambda i, name=name: -rows[i][name])
        for rank, i in enumerate(order, 1):
            rows[i][f"rank.{name}"] = rank
    rows.sort(key=lambda row: -row[names[0]])
    text = row_of_prompt["text"] if row_of_prompt else ""
    return _page(
        record,
        f"prompt {_number(prompt)}",
        _end(text),
        kind="sampled",
        text=text,
        target=repr(row_of_prompt["target"]) if row_of_prompt else "",
        n_active=row_of_prompt["n_active"] if row_of_prompt else "?",
        legend=COLOURS,
        table=_latents(record, rows, []),
    )


def _samples_page(record: Record, prompt: str) -> Page:
    """Show what the model writes after a prompt, before and after steering, side by side."""
    samples = []
    for row in _only(record, "steering/samples", "prompt", prompt):
        is_off = (row["mode"], row["dose"]) == ("scale", 0)
        dose = "off" if is_off else f"{row['mode']} {row['dose']:g}"
        samples.append({**row, "title": f"{about_variant(record, row['selector']).label}: {dose}"})
    place = _distinct(record, "steering/samples", "prompt").index(prompt)
    about = _end(prompt)
    return _page(record, f"sample {place}", about, kind="samples", text=prompt, samples=samples)


def _end(text: str) -> str:
    """Return the last words of a prompt, which stand before the target."""
    text = " ".join(text.split())
    return text if len(text) <= MOST_LETTERS else f"... {text[-MOST_LETTERS:].partition(' ')[2]}"


def _latents(
    record: Record, rows: Sequence[dict[str, Any]], tokens: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the table of latents: a row each, in the order of the truth where it is known."""
    names = [name.removeprefix("rank.") for name in rows[0] if name.startswith("rank.")]
    names.sort(key=lambda name: name not in TRUTHS)
    truth = names[0] if names[0] in TRUTHS else None
    words = {row["position"]: row["token"] for row in tokens}
    is_placed, turned = any(row.get("peak") is not None for row in rows), len(names) > MOST_SCORES
    placed = ["strongest at"] if is_placed else []
    return {
        "heads": ["latent", *placed, *(_name(record, name) for name in names)],
        "turned": turned,
        "rows": [
            {
                "latent": row["latent"],
                "where": _where(row.get("peak"), words) if is_placed else None,
                "cells": [_ranked(record, row, name, truth, alone=turned) for name in names],
            }
            for row in rows
        ],
    }


def _where(position: int | None, words: dict[int, str]) -> str:
    """Return the token at which a latent is strongest, and its position."""
    return "" if position is None else f"{words.get(position, '')!r} ({position})"


def _ranked(
    record: Record, row: dict[str, Any], name: str, truth: str | None, *, alone: bool
) -> dict[str, Any]:
    """Return a method's score and rank (or the rank alone), marked by what the truth says."""
    rank, score = row[f"rank.{name}"], format_score(row[name])
    mark = None
    if truth is None or name == truth:
        mark = "first" if rank <= N_FIRST else None
    elif rank <= N_FIRST:
        mark = "first" if row[f"rank.{truth}"] <= N_FIRST else "false"
    elif row[f"rank.{truth}"] <= N_FIRST:
        mark = "missed"
    if alone and name != truth:
        hint = f"{_name(record, name)}: {score}"
        return {"text": rank, "rank": None, "mark": mark, "hint": hint}
    return {"text": score, "rank": rank, "mark": mark, "hint": None}


def _name(record: Record, name: str) -> str:
    return "true effect" if name in TRUTHS else about_variant(record, name).label


def _curve(record: Record) -> dict[str, Any]:
    """Return the drop of the answer's log-probability by ranking and K, means over questions."""
    rows = [row for row in record.rows("masking/curve") if row["kind"] == "top"]
    ks = list(dict.fromkeys(row["k"] for row in rows))
    drop = {(row["ranking"], row["k"]): row["drop"] for row in rows}
    names = dict.fromkeys(row["ranking"] for row in rows)
    shown = [(_name(record, name), [drop.get((name, k)) for k in ks]) for name in names]
    return {"ks": ks, "rows": shown}


def _page(record: Record, title: str, about: str, **data: Any) -> Page:
    setup = record.setup
    names = (setup.model.name, setup.source.site, setup.trainer.name)
    commit = str(record.provenance["commit"] or "unknown")[:7]
    place = ", ".join(name for name in names if name)
    origin = f"{place}; record {record.id}, task {record.task['name']}, commit {commit}"
    heading = f"{record.task['name']}, {title}"
    whole = html.render(
        "prompt.html.j2", style="prompt.css", heading=heading, origin=origin, **data
    )
    file = f"{record.id}-{title.replace(' ', '-')}.html"
    return Page(file=file, title=title, about=about, html=whole)


def _number(prompt: Any) -> int:
    """Return the number of a prompt; it becomes part of a file's name, so nothing else may."""
    if type(prompt) is not int:
        raise ValueError(f"a prompt is numbered {str(prompt)[:40]!r}; it must be a whole number")
    return prompt


def _distinct(record: Record, series: str, column: str) -> list[Any]:
    return list(dict.fromkeys(record.series[series][column]))


def _only(record: Record, series: str, column: str, value: Any) -> list[dict[str, Any]]:
    """Return the rows of a series whose column has one value."""
    return [row for row in record.rows(series) if row[column] == value]
