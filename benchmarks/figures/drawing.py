"""What a module of a figure returns, and the caption of a figure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.results.commands import commands_of
from benchmarks.results.settings import Setting, counted
from gradsae.records.record import Record
from gradsae.tables.printing import escaped

MAX_COMMANDS = 3


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One page of a figure, and what its caption says."""

    figure: Any
    """A matplotlib figure."""
    title: str
    text: str
    """What is drawn: axes, marks, intervals."""
    settings: Sequence[Setting]
    """All settings of which something is drawn."""
    further_pages: Sequence["Drawing"] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure without a module of its own; it has the three names that such a module has."""

    NAME: str
    COMMAND: str
    draw: Callable[[Sequence[Setting]], Drawing | None]


def bind_pages(pages: Sequence[Drawing]) -> Drawing | None:
    """Return the pages of a figure as one drawing, or None if there is no page."""
    if len(pages) > 1:
        pages = [
            replace(page, title=f"{page.title} Page {i} of {len(pages)}.")
            for i, page in enumerate(pages, start=1)
        ]
    return replace(pages[0], further_pages=pages[1:]) if pages else None


def caption(name: str, drawing: Drawing) -> str:
    """Return Markdown: what is drawn, then n, hardware, cost, commit and commands."""
    records = [record for setting in drawing.settings for record in setting.records]
    return (
        f"**{drawing.title}** {drawing.text}\n\n"
        f"{_count(drawing.settings)} {_hardware(records)} {_cost(records)} {_commits(records)}"
        f"{_notes(drawing.settings)}\n\n"
        f"Records made by {_commands(records)}; drawn by "
        f"`python -m benchmarks.figures --only {name}`.\n"
    )


def describe_intervals(
    settings: Iterable[Setting], score: str, *, dots: bool = False, mark: str = "bars"
) -> str:
    """Return what the intervals of a score are taken over, in words.

    `mark` is what they are drawn as. With `dots`, single seeds are drawn too.
    """
    units = {estimate.over for setting in settings if (estimate := setting.estimate(score))}
    within_seed = ", ".join(map(escaped, sorted(units - {"seeds", ""})))
    if "seeds" in units:
        words = f"{mark}: 95 % t interval over seeds, not clipped to the range of the score"
        words += "; grey dots: single seeds" if dots else ""
        return words + (f"; one seed: 95 % bootstrap over {within_seed}" if within_seed else "")
    if within_seed:
        return f"{mark}: 95 % bootstrap interval over {within_seed}, one seed"
    return f"no {mark}: fewer than three seeds"


def omitted_note(n_shown: int, n_all: int, noun: str = "settings") -> str:
    """Return a sentence that says how many are drawn, or nothing if all are."""
    return f" {n_shown} of {n_all} {noun} are drawn." if n_shown < n_all else ""


def _count(settings: Sequence[Setting]) -> str:
    """Return how many records, seeds and prompts there are."""
    seeds = sorted({setting.n_seeds for setting in settings})
    n = sum(len(setting.records) for setting in settings)
    span = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    words = f"{n} record{'s' * (n > 1)}, {span} seed{'s' * (seeds[-1] > 1)} a setting"
    prompts = sorted(
        {count for setting in settings for record in setting.records if (count := counted(record))}
    )
    if prompts:
        span = str(prompts[0]) if len(prompts) == 1 else f"{prompts[0]} to {prompts[-1]}"
        words += f", {span} prompts each"
    return words + "."


def _hardware(records: Sequence[Record]) -> str:
    names = {}
    for record in records:
        about = record.provenance
        name = about.get("gpu") or f"{about.get('cpu', 'CPU')}, {about.get('cores', '?')} cores"
        names[escaped(f"{name} ({about['device']})")] = None
    return f"Hardware: {_shorten(list(names), '; ')}."


def _cost(records: Sequence[Record]) -> str:
    """Return the time of all records and of one record, and the largest memory of a process."""
    seconds = [r.cost["seconds"] for r in records if r.cost["seconds"] is not None]
    if not seconds:
        return "Cost: not measured."
    words = f"Cost: {duration(sum(seconds))} in all"
    if len(seconds) > 1:
        low, high = duration(min(seconds)), duration(max(seconds))
        span = low if low == high else f"{low} to {high}"
        words += f", {duration(sum(seconds) / len(seconds))} a record ({span})"
    if len(seconds) < len(records):
        words += f", {len(records) - len(seconds)} not measured"
    peaks = [r.cost["peak_bytes"] for r in records if r.cost["peak_bytes"] is not None]
    return words + (f"; peak memory {max(peaks) / 1e9:.1f} GB." if peaks else ".")


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours, to two digits or more."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _commits(records: Sequence[Record]) -> str:
    commits = dict.fromkeys(str(r.provenance["commit"] or "unknown")[:7] for r in records)
    dirty = sum(r.provenance["dirty"] is not False for r in records)
    words = f"Commit {_shorten([f'`{commit}`' for commit in commits], ', ')}"
    return words + (f", {dirty} of the records with changed or unknown code." if dirty else ".")


def _notes(settings: Sequence[Setting]) -> str:
    """Return how the weights of each language model were rounded, where they were."""
    notes = dict.fromkeys(
        escaped(f"{setting.setup.model.name}: {setting.weights}")
        for setting in settings
        if setting.weights
    )
    return f" Weights of {_shorten(list(notes), '; ')}." if notes else ""


def _commands(records: Sequence[Record]) -> str:
    """Return the commands that make the records, without the words that change no record."""
    commands = [f"`{command[:300]}`" for command in commands_of(records)]
    return _shorten(commands, ", ") or "commands that are not known here"


def _shorten(items: Sequence[str], separator: str) -> str:
    """Return the first items, and how many more there are."""
    n_more = len(items) - MAX_COMMANDS
    ending = f"{separator}and {n_more} more" if n_more > 0 else ""
    return separator.join(items[:MAX_COMMANDS]) + ending
