"""Draw what masks of the first latents of each ranking do to the answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.choice import panel_headings, sort_by_world, with_series
from benchmarks.figures.drawing import Drawing, omitted_note
from benchmarks.figures.looks import GREY, Look, looks
from benchmarks.figures.style import (
    COLUMN,
    PAGE,
    handle,
    legend_below,
    line_handles,
    line_style,
    new_figure,
    plain_log,
    zero_line,
)
from benchmarks.results.settings import Setting, most_asked_first, sae_config, variants_of
from gradsae.records.record import content_id

NAME = "masking"
COMMAND = "python -m benchmarks.run experiment=masking"
SERIES = "masking/curve"
ROWS = (
    ("top", "drop", "answer: drop of\nlog p (nats)"),
    ("top", "mark_drop", "format's bracket:\ndrop of log p (nats)"),
    ("top", "em", "exact match of\nwritten answers"),
    ("keep", "faithfulness", "faithfulness of\nonly the first K"),
)
"""Kind of mask, column of the series, and label of the axis, for each row of panels."""
MAX_COLUMNS = 3


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = sort_by_world(with_series(settings, "masking", SERIES))
    if not settings:
        return None
    by_sae: dict[str, Setting] = {}
    for setting in most_asked_first(settings):
        by_sae.setdefault(content_id(sae_config(setting)), setting)
    shown = [setting for setting in settings if setting in by_sae.values()][:MAX_COLUMNS]
    rows = [row for row in ROWS if any(_lines(setting, *row[:2]) for setting in shown)]
    figure, grid = new_figure(
        *(len(rows), len(shown)),
        width=max(COLUMN, min(PAGE, 0.8 + 2.1 * len(shown))),
        height=0.9 + 1.3 * len(rows),
        sharex="col",
        sharey="row",
    )
    names = {name for setting in shown for run in _runs(setting) for name in run["ranking"]}
    abouts = variants_of(shown, sorted(names))
    look_by_name = looks(abouts)
    for column, setting, heading in zip(grid.T, shown, panel_headings(shown), strict=True):
        for axes, (kind, value, _) in zip(column, rows, strict=True):
            _panel(axes, setting, kind, value, look_by_name)
        column[0].set_title(heading, fontsize=7)
        column[-1].set_xlabel("number of latents K")
    for line, row in zip(grid, rows, strict=True):
        line[0].set_ylabel(row[2])
    handles = line_handles(abouts, look_by_name)
    handles.append(handle("K smallest positive", GREY, linestyle=":", linewidth=0.8))
    legend_below(figure, handles, 3 if len(shown) > 1 else 2)
    note = omitted_note(len(shown), len(settings))
    note += " Of settings with one SAE, the one with the most questions counts." if note else ""
    return Drawing(
        figure=figure,
        title="Masking the first latents of each ranking.",
        text="The first K latents of a ranking are ablated at every position, on questions that "
        "the unedited model answers right. The answer is teacher-forced; the bracket is the token "
        "that the GradSAE release scores. Dotted: the K latents with the smallest positive values "
        "are ablated instead, the paper's control. Last row: all latents but the first K are "
        "ablated. Random, matched: random latents as strong as the first K of grad x act. First "
        f"seed; bands, in the first row alone: 95 % bootstrap over contexts.{note}",
        settings=shown,
    )


def _runs(setting: Setting) -> list[dict[str, list[Any]]]:
    """Return the columns of the first seed, in a list of one."""
    return setting.series(SERIES)[:1]


def _lines(setting: Setting, kind: str, value: str) -> dict[str, list[int]]:
    """Return the rows of the series that have the value, by ranking and rising K."""
    (run,) = _runs(setting)
    lines: dict[str, list[int]] = {}
    for i, (name, row_kind) in enumerate(zip(run["ranking"], run["kind"], strict=True)):
        if row_kind == kind and run[value][i] is not None:
            lines.setdefault(name, []).append(i)
    return {name: sorted(rows, key=lambda i: run["n_latents"][i]) for name, rows in lines.items()}


def _panel(
    axes: Any, setting: Setting, kind: str, value: str, look_by_name: Mapping[str, Look]
) -> None:
    (run,) = _runs(setting)
    for name, rows in _lines(setting, kind, value).items():
        look = look_by_name[name]
        ks = [run["n_latents"][i] for i in rows]
        axes.plot(ks, [run[value][i] for i in rows], markersize=3, **line_style(look))
        ends = [[run[f"drop_{end}"][i] for i in rows] for end in ("low", "high")]
        if value == "drop" and None not in (*ends[0], *ends[1]):
            axes.fill_between(ks, *ends, color=look.colour, alpha=0.12, linewidth=0)
    for name, rows in _lines(setting, "bottom" if kind == "top" else "", value).items():
        ks, values = ([run[column][i] for i in rows] for column in ("n_latents", value))
        axes.plot(ks, values, color=look_by_name[name].colour, linestyle=":", linewidth=0.8)
    plain_log(axes, "x")
    zero_line(axes)
    axes.grid()
