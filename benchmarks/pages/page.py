"""Pages of a record: the prompts that its series hold, one page each. Nothing is run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.leaderboard.html import Html, element, fingerprint, join
from benchmarks.results.declared import about_variant
from benchmarks.results.settings import Cell, n_asked, sae_title, site_order
from benchmarks.results.vocabulary import format_score
from gradsae.records.record import Record, part

N_FIRST = 10
"""Ranks that are marked: the top K of most scores."""
MOST_SCORES = 8
"""Rankings that are shown with their scores; of more, the rank alone."""
MOST_LETTERS = 60
"""Of a prompt, in the list of pages."""
CSS = (Path(__file__).parent / "page.css").read_text()
TRUTHS = ("oracle", "effect")


@dataclass(frozen=True, kw_only=True)
class Page:
    file: str
    title: str
    """`prompt 0`: which one of its record."""
    about: str
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


def index(found: Sequence[tuple[Cell, Sequence[Page]]]) -> str:
    """The list of pages: by task and SAE, in the order of the tables, those most asked first."""
    body: list[Html] = []
    tasks = sorted({cell.task for cell, _ in found})
    for task in tasks:
        body.append(element("h2", task))
        ours = [each for each in found if each[0].task == task]
        for cell, pages in sorted(ours, key=lambda each: _order(each[0])):
            links = [
                element("li", element("a", page.title, href=page.file), f"  {page.about}")
                for page in pages
            ]
            body += [element("p", *_about(cell)), element("ul", *links)]
    return _document("Prompts, one page each", body)


def _order(cell: Cell) -> tuple[Any, ...]:
    return *site_order(cell), cell.depth or 0, -n_asked(cell), cell.first.id


def _about(cell: Cell) -> list[Html | str]:
    """`smollm2, resid_post.15, TopK, prose`, and which record of it this is."""
    asked, what = n_asked(cell), "questions" if cell.task == "masking" else "prompts"
    more = [cell.part("experiment"), f"{asked} {what}" if asked else None, cell.first.id]
    rest = ", ".join(str(each) for each in more if each)
    return [element("strong", sae_title(cell)), element("span", f"  {rest}", class_="quiet")]


def _masking_page(record: Record, question: int) -> Page:
    """A question: its tokens, its latents, and how much of the answer goes with each ranking."""
    asked = _only(record, "masking/questions", "question", question)[0]
    latents = _only(record, "masking/latents", "question", question)
    tokens = _only(record, "masking/tokens", "question", question)
    peaks = [row["peak"] for row in latents if row.get("rank.oracle", N_FIRST) <= N_FIRST]
    answer = element("p", "Answer: ", element("strong", asked["answer"]))
    chance = f"log p(answer) = {format_score(asked['log_prob'])} nats, without any latent "
    chance += (
        f"{format_score(asked['log_prob_without_latents'])}; {asked['n_active']} latents fire."
    )
    body = [
        answer,
        element("p", chance, class_="quiet"),
        element("h2", "Tokens"),
        _tokens(tokens, set(peaks)),
        element("p", _LEGEND, class_="quiet"),
        element("h2", "Latents"),
        _latents(record, latents, {row["position"]: row["token"] for row in tokens}),
        element("h2", "What is lost when a ranking's first latents are off (all questions)"),
        _curve(record),
    ]
    lines = asked["text"].strip().splitlines()
    asks = next((line for line in reversed(lines) if "?" in line), lines[-1])
    return _page(record, f"question {question}", f"{asks} {asked['answer']}", body)


_COLOURS = (
    "In the table below, a number is a method's score with its rank (of many methods the rank "
    "alone); green: among the first ten of that method and of the truth; struck through: of that "
    "method alone; bold red: of the truth, but missed by that method."
)
_LEGEND = f"Marked: where the ten latents of largest true effect are strongest. {_COLOURS}"


def _influence_page(record: Record, prompt: int) -> Page:
    """A prompt of an influence record: its tokens, and the first latents of each ranking."""
    about = _only(record, "influence/per_prompt", "prompt", prompt)[0]
    latents = _only(record, "influence/latents", "prompt", prompt)
    tokens = _only(record, "influence/tokens", "prompt", prompt)
    peaks = [row["peak"] for row in latents if row["rank.effect"] <= N_FIRST]
    share = format_score(about["target_prob"])
    sizes = f"{about['n_active']} latents fire, {about['n_ablated']} were ablated"
    body = [
        element("p", "Next token: ", element("strong", repr(about["target"])), f" (p = {share})"),
        element("p", f"{sizes}; ranks are among those.", class_="quiet"),
        element("h2", "Tokens"),
        _tokens(tokens, set(peaks)),
        element("h2", "Latents, by true effect"),
        element("p", _LEGEND, class_="quiet"),
        _latents(record, latents, {row["position"]: row["token"] for row in tokens}),
    ]
    return _page(record, f"prompt {prompt}", _end(about["text"]), body)


def _sampled_page(record: Record, prompt: int) -> Page:
    """A prompt of a record without such tables: the latents that its scatter happens to hold."""
    about = _only(record, "influence/per_prompt", "prompt", prompt)
    rows = _only(record, "influence/scatter", "prompt", prompt)
    names = [name for name in rows[0] if name not in ("prompt", "latent", "truth", "scalar")]
    names = [name for name in names if isinstance(rows[0][name], int | float)]
    for name in names:
        order = sorted(range(len(rows)), key=lambda i, name=name: -rows[i][name])
        for rank, i in enumerate(order, 1):
            rows[i][f"rank.{name}"] = rank
    rows.sort(key=lambda row: -row[names[0]])
    text = about[0]["text"] if about else ""
    n_active = about[0]["n_active"] if about else "?"
    body = [
        element("div", text, class_="tokens"),
        element("p", f"Target: {about[0]['target']!r}" if about else None),
        element("h2", f"Latents: {len(rows)} of {n_active}, drawn at random"),
        element("p", f"Ranks are among those listed, not among all. {_COLOURS}", class_="quiet"),
        _latents(record, rows, {}),
    ]
    return _page(record, f"prompt {prompt}", _end(text), body)


def _samples_page(record: Record, prompt: str) -> Page:
    """What the model writes after a prompt, before and after steering, side by side."""
    rows = _only(record, "steering/samples", "prompt", prompt)
    pieces: list[Html] = [element("div", prompt, class_="tokens")]
    for row in rows:
        name = about_variant(record, row["selector"]).label
        how = (
            "off"
            if (row["mode"], row["dose"]) == ("scale", 0)
            else f"{row['mode']} {row['dose']:g}"
        )
        pieces += [
            element("h2", f"{name}: {how}"),
            element("p", f"latents {row['latents']}", class_="quiet"),
            _side_by_side(row["before"], row["after"]),
        ]
    place = _distinct(record, "steering/samples", "prompt").index(prompt)
    return _page(record, f"sample {place}", _end(prompt), pieces)


def _end(text: str) -> str:
    """The last words of a prompt: what comes next is asked about."""
    text = " ".join(text.split())
    return text if len(text) <= MOST_LETTERS else f"... {text[-MOST_LETTERS:].partition(' ')[2]}"


def _side_by_side(before: str, after: str) -> Html:
    boxes = [
        element("div", element("span", label, class_="label"), text)
        for label, text in (("before", before), ("after", after))
    ]
    return element("div", *boxes, class_="pair")


def _tokens(rows: Sequence[dict[str, Any]], peaks: set[int]) -> Html:
    spans = [
        element(
            "span",
            row["token"],
            class_="peak" if row["position"] in peaks else None,
            title=f"position {row['position']}",
        )
        for row in rows
    ]
    return element("div", *spans, class_="tokens")


def _latents(record: Record, rows: Sequence[dict[str, Any]], tokens: dict[int, str]) -> Html:
    """One row per latent, in the order of the truth where it is known."""
    names = [name.removeprefix("rank.") for name in rows[0] if name.startswith("rank.")]
    names.sort(key=lambda name: name not in TRUTHS)
    shown = [_name(record, name) for name in names]
    placed = ["strongest at"] if any(row.get("peak") is not None for row in rows) else []
    heads = [element("th", element("span", text)) for text in ("latent", *placed, *shown)]
    lines = [element("tr", *heads)]
    truth = names[0] if names[0] in TRUTHS else None
    for row in rows:
        at = row.get("peak")
        where = "" if at is None else f"{tokens.get(at, '')!r} ({at})"
        cells = [element("td", str(row["latent"]))]
        cells += [element("td", where, class_="text") for _ in placed]
        alone = len(names) > MOST_SCORES
        cells += [_ranked(record, row, name, truth, alone=alone) for name in names]
        lines.append(element("tr", *cells))
    wide = "wide turned" if len(names) > MOST_SCORES else "wide"
    return element("div", element("table", *lines), class_=wide)


def _ranked(
    record: Record, row: dict[str, Any], name: str, truth: str | None, *, alone: bool
) -> Html:
    """A method's score and rank (or the rank alone), marked by what the truth says."""
    rank, score = row[f"rank.{name}"], format_score(row[name])
    mark = None
    if truth is None or name == truth:
        mark = "first" if rank <= N_FIRST else None
    elif rank <= N_FIRST:
        mark = "first" if row[f"rank.{truth}"] <= N_FIRST else "false"
    elif row[f"rank.{truth}"] <= N_FIRST:
        mark = "missed"
    if alone and name != truth:
        return element("td", str(rank), class_=mark, title=f"{_name(record, name)}: {score}")
    small = element("span", f"{rank}", class_="rank", title="rank")
    return element("td", join(score, small), class_=mark)


def _name(record: Record, name: str) -> str:
    return "true effect" if name in TRUTHS else about_variant(record, name).label


def _curve(record: Record) -> Html:
    """The drop of the answer's log-probability by ranking and K, means over questions."""
    run = record.series["masking/curve"]
    rows = [dict(zip(run, values, strict=True)) for values in zip(*run.values(), strict=True)]
    rows = [row for row in rows if row["kind"] == "top"]
    ks = list(dict.fromkeys(row["k"] for row in rows))
    drop = {(row["ranking"], row["k"]): row["drop"] for row in rows}
    lines = [element("tr", element("th", "ranking"), *(element("th", f"K = {k}") for k in ks))]
    for name in dict.fromkeys(row["ranking"] for row in rows):
        cells = [element("td", format_score(drop.get((name, k)))) for k in ks]
        lines.append(element("tr", element("td", _name(record, name)), *cells))
    return element("div", element("table", *lines), class_="wide")


def _page(record: Record, title: str, about: str, body: Sequence[Html]) -> Page:
    names = (part(record, "model", "name"), part(record, "source", "site"))
    place = ", ".join(str(name) for name in (*names, part(record, "trainer", "name")) if name)
    commit = str(record.provenance["commit"] or "unknown")[:7]
    line = f"{place}; record {record.id}, task {record.task['name']}, commit {commit}"
    html = _document(f"{record.task['name']}, {title}", [element("p", line, class_="quiet"), *body])
    file = f"{record.id}-{title.replace(' ', '-')}.html"
    return Page(file=file, title=title, about=about, html=html)


def _document(title: str, body: Sequence[Html]) -> str:
    policy = f"default-src 'none'; style-src {fingerprint(CSS)}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width"),
        element("title", title),
        Html(f"<style>{CSS}</style>"),
    )
    page = element("html", head, element("body", element("h1", title), *body), lang="en")
    return f"<!doctype html>\n{page}\n"


def _distinct(record: Record, series: str, column: str) -> list[Any]:
    return list(dict.fromkeys(record.series[series][column]))


def _only(record: Record, series: str, column: str, value: Any) -> list[dict[str, Any]]:
    """The rows of a series whose column has one value, each as a mapping."""
    run = record.series.get(series, {column: []})
    return [
        dict(zip(run, values, strict=True))
        for values in zip(*run.values(), strict=True)
        if values[list(run).index(column)] == value
    ]
