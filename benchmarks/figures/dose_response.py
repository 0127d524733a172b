"""Dose and response of steering, with its side effect on the rest of the distribution."""

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
    sae_label,
    where,
)
from benchmarks.results.settings import Setting, variants_of
from benchmarks.results.worlds import make_worlds

NAME = "dose_response"
COMMAND = "python -m benchmarks.run task=steering source=lm_layer trainer=topk"
SERIES = "steering/dose_response"
AXES = {
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
    settings = [
        setting for setting in settings if setting.task == "steering" and setting.series(SERIES)
    ]
    settings = [setting for world in make_worlds(settings) for setting in world.settings]
    panels = [(setting, mode) for mode in AXES for setting in settings if mode in modes(setting)]
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
    cells_shown = [setting for setting, _ in shown]
    abouts = variants_of(cells_shown, _selectors(cells_shown))
    of = looks(abouts)
    for column, (setting, mode) in zip(grid.T, shown, strict=True):
        for axes, row in zip(column, rows, strict=True):
            _panel(axes, setting, mode, row, of)
        column[0].set_title(f"{sae_label(setting)}\n{where(setting)}", fontsize=7)
        column[-1].set_xlabel(AXES.get(mode, mode))
    for line, row in zip(grid, rows, strict=True):
        line[0].set_ylabel(row[3])
    legend_below(figure, [line_handle(abouts[name].label, of[name]) for name in of], 3)
    few = f" {len(shown)} of {len(panels)} panels." if len(shown) < len(panels) else ""
    return Drawing(
        figure=figure,
        title="Steering: dose, response and side effects.",
        text="Change of the target's log-probability, KL of the next-token distribution without "
        "the target, and perplexity on unrelated text, by the dose given to the chosen latents; "
        "random latents of matched activation are the control. First seed; bands: 95 % "
        "bootstrap over prompts, none for perplexity. Times 1 changes nothing, times 0 switches "
        f"the latents off.{few}",
        settings=list(dict.fromkeys(setting for setting, _ in shown)),
    )


def modes(setting: Setting) -> list[str]:
    """Modes with at least two doses."""
    run = setting.series(SERIES)[0]
    doses: dict[str, set[float]] = {}
    for mode, dose in zip(run["mode"], run["dose"], strict=True):
        doses.setdefault(mode, set()).add(dose)
    return [mode for mode in AXES if len(doses.get(mode, ())) > 1]


def _selectors(settings: Sequence[Setting]) -> list[str]:
    found = {name for setting in settings for name in setting.series(SERIES)[0]["selector"]}
    return list(variants_of(settings, sorted(found)))


def _panel(
    axes: Any, setting: Setting, mode: str, row: tuple[str, str, str, str], of: Mapping[str, Look]
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
        colour, marker, dash = of[name]
        style = {"color": colour, "marker": marker, "linestyle": dash}
        axes.plot(doses, [run[value][i] for i in rows], markersize=3, **style)
        if low in run and high in run:
            ends = [[run[end][i] for i in rows] for end in (low, high)]
            if all(end is not None for end in (*ends[0], *ends[1])):
                axes.fill_between(doses, *ends, color=colour, alpha=0.15, linewidth=0)
    base = 1 if value == "ppl_ratio" else 0
    dose_axis(axes, sorted({d for d, m in zip(run["dose"], run["mode"], strict=True) if m == mode}))
    axes.axhline(base, color="#BBBBBB", linewidth=0.5, zorder=0)
    axes.grid()


def dose_axis(axes: Any, doses: Sequence[float]) -> None:
    """Every dose has a tick; beyond 1 doublings are equally far apart."""
    if max(map(abs, doses)) > 2:
        axes.set_xscale("symlog", base=2, linthresh=1, linscale=1)
    axes.set_xticks(doses, [f"{dose:g}" for dose in doses])
    axes.minorticks_off()
