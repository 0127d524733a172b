"""What a figure file returns, and the caption that goes with every figure."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.results.settings import Setting, counted
from gradsae.records.record import Record

MAX_COMMANDS = 3
NOT_THE_RECORDS = re.compile(r" (tracking|results|device|hydra/launcher|force)=\S+")
"""Words of a command that say where and how a setting ran, not which."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    figure: Any
    """A matplotlib figure."""
    title: str
    text: str
    """What is drawn: axes, marks, what the bars are."""
    settings: Sequence[Setting]
    """All that went in."""
    more: Sequence["Drawing"] = ()
    """Further pages."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure that is not a module of its own: what `benchmarks.figures` asks of each."""

    NAME: str
    COMMAND: str
    draw: Callable[[Sequence[Setting]], Drawing | None]


def book(pages: Sequence[Drawing]) -> Drawing | None:
    """Pages of one figure as one drawing; None where there is no page."""
    if len(pages) > 1:
        pages = [
            replace(page, title=f"{page.title} Page {i} of {len(pages)}.")
            for i, page in enumerate(pages, start=1)
        ]
    return replace(pages[0], more=pages[1:]) if pages else None


def caption(name: str, drawing: Drawing) -> str:
    """Markdown: what is drawn, then n, hardware, cost, commit and commands, from the records."""
    records = [record for setting in drawing.settings for record in setting.records]
    return (
        f"**{drawing.title}** {drawing.text}\n\n"
        f"{_count(drawing.settings)} {_hardware(records)} {_cost(records)} {_commits(records)}"
        f"{_notes(drawing.settings)}\n\n"
        f"Records made by {_commands(records)}; drawn by "
        f"`python -m benchmarks.figures --only {name}`.\n"
    )


def bars(settings: Iterable[Setting], score: str, *, dots: bool = False, mark: str = "bars") -> str:
    """What the bars of a score are, in words; `dots` where single seeds are drawn, too; `mark` is
    what they are drawn as."""
    kinds = {found.over for setting in settings if (found := setting.estimate(score))}
    inside = ", ".join(sorted(kinds - {"seeds", ""}))
    if "seeds" in kinds:
        words = f"{mark}: 95 % t interval over seeds, not clipped to the range of the score"
        words += "; grey dots: single seeds" if dots else ""
        return words + (f"; one seed: 95 % bootstrap over {inside}" if inside else "")
    if inside:
        return f"{mark}: 95 % bootstrap interval over {inside}, one seed"
    return f"no {mark}: fewer than three seeds"


def _count(settings: Sequence[Setting]) -> str:
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
    found = {}
    for record in records:
        about = record.provenance
        name = about.get("gpu") or f"{about.get('cpu', 'CPU')}, {about.get('cores', '?')} cores"
        found[f"{name} ({about['device']})"] = None
    return f"Hardware: {_some(list(found), '; ')}."


def _cost(records: Sequence[Record]) -> str:
    """Seconds of all records together and of one, and the most memory that a process took."""
    known = [r.cost["seconds"] for r in records if r.cost["seconds"] is not None]
    if not known:
        return "Cost: not measured."
    words = f"Cost: {duration(sum(known))} in all"
    if len(known) > 1:
        low, high = duration(min(known)), duration(max(known))
        each = low if low == high else f"{low} to {high}"
        words += f", {duration(sum(known) / len(known))} a record ({each})"
    if len(known) < len(records):
        words += f", {len(records) - len(known)} not measured"
    peaks = [r.cost["peak_bytes"] for r in records if r.cost["peak_bytes"] is not None]
    return words + (f"; peak memory {max(peaks) / 1e9:.1f} GB." if peaks else ".")


def duration(seconds: float) -> str:
    """Two digits or more, in the unit that people use."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _commits(records: Sequence[Record]) -> str:
    commits = dict.fromkeys(str(r.provenance["commit"] or "unknown")[:7] for r in records)
    dirty = sum(r.provenance["dirty"] is not False for r in records)
    words = f"Commit {_some([f'`{commit}`' for commit in commits], ', ')}"
    return words + (f", {dirty} of the records with changed or unknown code." if dirty else ".")


def _notes(settings: Sequence[Setting]) -> str:
    """How the weights were rounded: every reader of a number must see it."""
    found = [
        f"{setting.setup.model.name}: {setting.weights}" for setting in settings if setting.weights
    ]
    notes = dict.fromkeys(found)
    return f" Weights of {_some(list(notes), '; ')}." if notes else ""


def _commands(records: Sequence[Record]) -> str:
    """What was typed, less the words that change no record."""
    typed = [NOT_THE_RECORDS.sub("", record.provenance["command"]) for record in records]
    commands = [f"`{command.replace('`', '')[:300]}`" for command in dict.fromkeys(typed)]
    return _some(commands, ", ")


def _some(items: Sequence[str], by: str) -> str:
    rest = len(items) - MAX_COMMANDS
    return by.join(items[:MAX_COMMANDS]) + (f"{by}and {rest} more" if rest > 0 else "")
