"""Draw effect and side effects of steering against the dose."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.choice import panel_headings, sort_by_world, with_series
from benchmarks.figures.drawing import Drawing, omitted_note
from benchmarks.figures.looks import Look, looks
from benchmarks.figures.style import (
    COLUMN,
    PAGE,
    PALE,
    legend_below,
    line_handles,
    line_style,
    new_figure,
)
from benchmarks.results.settings import Setting, variants_of

NAME = "dose_response"
COMMAND = "python -m benchmarks.run task=steering source=lm_layer trainer=topk"
SERIES = "steering/dose_response"
AXIS_LABELS = {
    "scale": "activation multiplied by",
    "set": "activation set to,\nin units of its maximum on the prompt",
}
SHOWN = (
    ("effect", "effect_low", "effect_high", "effect on the target\n(nats)"),
    ("kl_rest", "kl_low", "kl_high", "KL of the rest\n(nats)"),
    ("ppl_ratio", "", "", "perplexity ratio,\nother text"),
)
MAX_COLUMNS = 3


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = sort_by_world(with_series(settings, "steering", SERIES))
    panels = [
        (setting, mode) for mode in AXIS_LABELS for setting in settings if mode in modes(setting)
    ]
    if not panels:
        return None
    shown = panels[:MAX_COLUMNS]
    rows = [
        row for row in SHOWN if any(row[0] in setting.series(SERIES)[0] for setting, _ in shown)
    ]
    width = max(COLUMN, min(PAGE, 0.5 + 2.2 * len(shown)))
    figure, grid = new_figure(
        *(len(rows), len(shown)),
        width=width,
        height=0.6 + 1.35 * len(rows),
        sharex="col",
        sharey="row",
    )
    settings_shown = [setting for setting, _ in shown]
    abouts = variants_of(settings_shown, _selectors(settings_shown))
    look_by_name = looks(abouts)
    headings = panel_headings(settings_shown)
    for column, (setting, mode), heading in zip(grid.T, shown, headings, strict=True):
        for axes, row in zip(column, rows, strict=True):
            _panel(axes, setting, mode, row, look_by_name)
        column[0].set_title(heading, fontsize=7)
        column[-1].set_xlabel(AXIS_LABELS.get(mode, mode))
    for line, row in zip(grid, rows, strict=True):
        line[0].set_ylabel(row[3])
    legend_below(figure, line_handles(abouts, look_by_name), 3)
    return Drawing(
        figure=figure,
        title="Steering: dose, response and side effects.",
        text="Change of the target's log-probability, KL of the next-token distribution without "
        "the target, and ratio of perplexities on unrelated text, against the dose that the "
        "selected latents get. Control: random latents of matched activation. First seed; bands: "
        "95 % bootstrap over prompts, none for the perplexity. A factor of 1 changes nothing; a "
        f"factor of 0 ablates the latents.{omitted_note(len(shown), len(panels), 'panels')}",
        settings=list(dict.fromkeys(settings_shown)),
    )


def modes(setting: Setting) -> list[str]:
    """Return the modes of steering that have at least two doses."""
    run = setting.series(SERIES)[0]
    doses: dict[str, set[float]] = {}
    for mode, dose in zip(run["mode"], run["dose"], strict=True):
        doses.setdefault(mode, set()).add(dose)
    return [mode for mode in AXIS_LABELS if len(doses.get(mode, ())) > 1]


def _selectors(settings: Sequence[Setting]) -> list[str]:
    names = {name for setting in settings for name in setting.series(SERIES)[0]["selector"]}
    return list(variants_of(settings, sorted(names)))


def _panel(
    axes: Any,
    setting: Setting,
    mode: str,
    row: tuple[str, str, str, str],
    look_by_name: Mapping[str, Look],
) -> None:
    value, low, high, _ = row
    run = setting.series(SERIES)[0]
    if value not in run:
        return
    for name in reversed(_selectors([setting])):
        rows = [
            i
            for i, (s, m) in enumerate(zip(run["selector"], run["mode"], strict=True))
            if (s, m) == (name, mode) and run[value][i] is not None
        ]
        rows.sort(key=lambda i: run["dose"][i])
        doses = [run["dose"][i] for i in rows]
        look = look_by_name[name]
        axes.plot(doses, [run[value][i] for i in rows], markersize=3, **line_style(look))
        if low in run and high in run:
            ends = [[run[end][i] for i in rows] for end in (low, high)]
            if all(end is not None for end in (*ends[0], *ends[1])):
                axes.fill_between(doses, *ends, color=look.colour, alpha=0.15, linewidth=0)
    unchanged = 1 if value == "ppl_ratio" else 0
    dose_axis(axes, sorted({d for d, m in zip(run["dose"], run["mode"], strict=True) if m == mode}))
    axes.axhline(unchanged, color=PALE, linewidth=0.5, zorder=0)
    axes.grid()


def dose_axis(axes: Any, doses: Sequence[float]) -> None:
    """Give every dose a tick. Beyond 1 the axis is logarithmic, if there are doses above 2."""
    if max(map(abs, doses)) > 2:
        axes.set_xscale("symlog", base=2, linthresh=1, linscale=1)
    axes.set_xticks(doses, [f"{dose:g}" for dose in doses])
    axes.minorticks_off()
