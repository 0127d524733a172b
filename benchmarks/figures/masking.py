"""Masking curves: what is lost of the answer while the first latents of each ranking go."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.drawing import Drawing
from benchmarks.figures.looks import Look, looks
from benchmarks.figures.style import (
    COLUMN,
    PAGE,
    legend_below,
    line_handle,
    new_figure,
    plain_log,
    sae_label,
    where,
)
from benchmarks.results.settings import Setting, most_asked_first, sae_config, variants_of
from benchmarks.results.worlds import make_worlds
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
MAX_COLUMNS = 3


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting for setting in settings if setting.task == "masking" and setting.series(SERIES)
    ]
    settings = [setting for world in make_worlds(settings) for setting in world.settings]
    if not settings:
        return None
    largest: dict[str, Setting] = {}  # of settings that asked one SAE
    for setting in most_asked_first(settings):
        largest.setdefault(content_id(sae_config(setting)), setting)
    shown = [setting for setting in settings if setting in largest.values()][:MAX_COLUMNS]
    rows = [row for row in ROWS if any(_lines(setting, *row[:2]) for setting in shown)]
    figure, grid = new_figure(
        *(len(rows), len(shown)),
        width=max(COLUMN, min(PAGE, 0.8 + 2.1 * len(shown))),
        height=0.9 + 1.3 * len(rows),
        sharex="col",
        sharey="row",
    )
    found = {name for setting in shown for run in _runs(setting) for name in run["ranking"]}
    abouts = variants_of(shown, sorted(found))
    of = looks(abouts)
    for column, setting in zip(grid.T, shown, strict=True):
        for axes, (kind, value, _) in zip(column, rows, strict=True):
            _panel(axes, setting, kind, value, of)
        column[0].set_title(f"{sae_label(setting)}\n{where(setting)}", fontsize=7)
        column[-1].set_xlabel("latents K")
    for line, row in zip(grid, rows, strict=True):
        line[0].set_ylabel(row[2])
    handles = [line_handle(abouts[name].label, of[name]) for name in of]
    legend_below(figure, handles, 3 if len(shown) > 1 else 2)
    few = f" {len(shown)} of {len(settings)} settings, of one SAE that with the most questions."
    few = few if len(shown) < len(settings) else ""
    return Drawing(
        figure=figure,
        title="Masking: what goes with the first latents of each ranking.",
        text="Top K latents off at every position, on questions that the unedited model answers "
        "right; the answer is teacher-forced, the bracket is the token that the GradSAE release "
        "scores. Dotted: the K smallest positive ones off, the paper's control. Last row: all but "
        "the top K off. Random, matched: as strong as the top K of grad x act. First seed; bands, "
        f"in the first row alone: 95 % bootstrap over contexts.{few}",
        settings=shown,
    )


def _runs(setting: Setting) -> list[dict[str, list[Any]]]:
    return setting.series(SERIES)[:1]


def _lines(setting: Setting, kind: str, value: str) -> dict[str, list[int]]:
    """Rows of each ranking that have the value, by rising K."""
    (run,) = _runs(setting)
    found: dict[str, list[int]] = {}
    for i, (name, what) in enumerate(zip(run["ranking"], run["kind"], strict=True)):
        if what == kind and run[value][i] is not None:
            found.setdefault(name, []).append(i)
    return {name: sorted(rows, key=lambda i: run["n_latents"][i]) for name, rows in found.items()}


def _panel(axes: Any, setting: Setting, kind: str, value: str, of: Mapping[str, Look]) -> None:
    (run,) = _runs(setting)
    for style, what in (("-", kind), (":", "bottom" if kind == "top" else "")):
        for name, rows in _lines(setting, what, value).items():
            colour, marker, dash = of[name]
            ks = [run["n_latents"][i] for i in rows]
            marks = {"marker": marker, "markersize": 3, "linestyle": dash}
            marks = marks if style == "-" else {"linestyle": style, "linewidth": 0.8}
            axes.plot(ks, [run[value][i] for i in rows], color=colour, **marks)
            ends = [[run[f"drop_{end}"][i] for i in rows] for end in ("low", "high")]
            whole = all(end is not None for end in (*ends[0], *ends[1]))
            if value == "drop" and style == "-" and whole:
                axes.fill_between(ks, *ends, color=colour, alpha=0.12, linewidth=0)
    plain_log(axes, "x")
    axes.axhline(0, color="#BBBBBB", linewidth=0.5, zorder=0)
    axes.grid()
