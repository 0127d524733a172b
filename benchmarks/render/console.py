"""Plain text tables for the terminal."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results.declared import about_source
from benchmarks.results.labels import labels
from benchmarks.results.reading import LOCAL_ORIGIN, Entry
from benchmarks.results.rows import columns, make_lines
from benchmarks.results.settings import Estimate, Setting, make_settings
from benchmarks.results.vocabulary import format_score
from gradsae.records.record import Record
from gradsae.tables.printing import MAX_CELL, console_table, printable


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table of a summary, ready to print."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def summary_table(records: Iterable[Record]) -> str:
    """Return the summary of records for a terminal."""
    return "\n\n".join(_printed(sheet) for sheet in summaries(records))


def summaries(records: Iterable[Record]) -> list[Sheet]:
    """Return the main scores: a sheet per task, version and source with a row per method, means
    over seeds, and after it what was asked further of a method."""
    entries = [Entry(record=r, path=Path(f"{r.id}.json"), origin=LOCAL_ORIGIN) for r in records]
    groups: dict[tuple[str, int, str], list[Setting]] = {}
    for setting in make_settings(entries):
        key = (setting.task, setting.first.task["version"], source_name(setting))
        groups.setdefault(key, []).append(setting)
    sheets: list[Sheet] = []
    for settings in groups.values():
        sheets += [
            _summary(settings),
            *(sheet for setting in settings if (sheet := further(setting))),
        ]
    return sheets


def _printed(sheet: Sheet) -> str:
    title = printable(sheet.title, MAX_CELL)
    return "\n".join([title, console_table(sheet.headers, sheet.rows), *sheet.notes])


def mean_text(estimate: Estimate | None) -> str:
    """`0.912 ±0.013`: the mean, and half of the 95 % interval over seeds where there is one."""
    if estimate is None:
        return "-"
    text = format_score(estimate.mean)
    if estimate.over != "seeds" or estimate.high is None:
        return text
    return f"{text} ±{format_score(estimate.high - estimate.mean)}"


def source_name(setting: Setting) -> str:
    """Return `resid_post.15 code` for a layer, the label of the source elsewhere."""
    parts = [setting.site, setting.setup.corpus.name]
    return " ".join(filter(None, parts)) or about_source(setting.first).label


def _summary(settings: Sequence[Setting]) -> Sheet:
    lines = make_lines(settings, labels(settings))
    task = settings[0].first.task
    names = [n for n in columns(lines) if not settings[0].score(n).detail]
    n_inside = [line.n_inside for line in lines]
    counted = [settings[0].score(names[0]).over] if names and None not in n_inside else []
    rows = [
        [
            line.label,
            str(line.setting.n_seeds),
            *([str(n)] if counted else []),
            *(mean_text(line.estimate(name)) for name in names),
            format_score(line.setting.seconds),
            _records(line.setting),
        ]
        for line, n in zip(lines, n_inside, strict=True)
    ]
    title = f"{task['name']}, version {task['version']}, on {source_name(settings[0])}"
    headers = [
        "method",
        "seeds",
        *counted,
        *(settings[0].score(name).header for name in names),
        "seconds",
        "record",
    ]
    noise = [text for setting in settings if (text := noise_text(setting))]
    return Sheet(title=title, headers=headers, rows=rows, notes=noise)


def further(setting: Setting) -> Sheet | None:
    """Return Spearman for each further scalar and truth of a setting, a column each."""
    first = "influence/spearman."
    found = [n.removeprefix(first) for n in setting.first.scores if n.startswith(first)]
    if not found:
        return None
    asked = list(dict.fromkeys(name.partition("/")[0] for name in found))
    rows = [
        [
            setting.variant(estimator).label,
            *(mean_text(setting.estimate(f"{first}{label}/{estimator}")) for label in asked),
        ]
        for estimator in dict.fromkeys(name.partition("/")[2] for name in found)
    ]
    title = f"Spearman for further scalars and truths ({_records(setting)})"
    return Sheet(title=title, headers=["estimator", *asked], rows=rows)


def noise_text(setting: Setting) -> str | None:
    """What rounding alone does to the target beside a typical true effect; of influence only."""
    found = [
        setting.mean(f"influence/{name}")
        for name in ("noise_floor/no_op_edit", "noise_floor", "median_abs_effect", "above_noise")
    ]
    if None in found:
        return None
    no_op, rounding, effect, above = map(format_score, found)
    return (
        f"noise floor ({_records(setting)}): {no_op} by edits that change nothing, {rounding} by "
        f"rounding; median |effect| {effect}, share above the floor {above}"
    )


def _records(setting: Setting) -> str:
    return setting.first.id if len(setting.records) == 1 else f"{len(setting.records)} records"
