"""Agreement of each estimator with ablation, by depth."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.drawing import Drawing, bars, book
from benchmarks.figures.estimators import (
    family_legend,
    family_looks,
    legend_columns,
    low,
    stretched_axis,
)
from benchmarks.figures.looks import Look
from benchmarks.figures.style import (
    COLUMN,
    PAGE,
    batches,
    escape,
    legend_height,
    new_figure,
    whisker,
)
from benchmarks.results.rows import variants
from benchmarks.results.settings import Estimate, Setting, most_asked_first, sae_config
from benchmarks.results.worlds import in_order
from gradsae.records.record import content_id

NAME = "layer_profile"
COMMAND = "python -m benchmarks.run experiment=influence_depths"
SCORE = "influence/spearman"
COLUMNS = 3
PANELS_A_PAGE = 9


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting for setting in settings if setting.task == "influence" and setting.depth is not None
    ]
    panels = make_panels(settings)
    if not panels:
        return None
    of = family_looks(settings, (name for setting in settings for name in variants(setting)))
    return book([_page(dict(page), of) for page in batches(list(panels.items()), PANELS_A_PAGE)])


def _page(panels: Mapping[str, list[Setting]], of: Mapping[str, Look]) -> Drawing:
    settings = [setting for members in panels.values() for setting in members]
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = COLUMN if columns == 1 else PAGE
    height = 0.4 + 1.9 * rows + legend_height(len(of), legend_columns(columns > 1))
    figure, grid = new_figure(rows, columns, width=width, height=height, sharey=True)
    for axes, (title, members) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, members, of)
        axes.set_title(escape(title))
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel("Spearman with ablation")
    for axes in list(grid.flat)[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("layer")  # the lowest of each column
    found = [
        setting.estimate(f"{SCORE}/{name}") for setting in settings for name in variants(setting)
    ]
    stretched_axis(grid[0, 0], min(low(one) for one in found if one is not None))  # shared
    family_legend(figure, settings, of, [], wide=columns > 1)
    return Drawing(
        figure=figure,
        title="Agreement with ablation by depth.",
        text="Spearman correlation between each estimate and the true effect of ablation over the "
        f"active latents of a prompt, mean over prompts; vertical axes are stretched towards 1; "
        f"{bars(settings, f'{SCORE}/grad_times_act')}.",
        settings=settings,
    )


def make_panels(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    """One panel for each kind of SAE, which is the same at all its depths; by title."""
    panels: dict[str, list[Setting]] = {}
    for setting in in_order(settings):
        panels.setdefault(_setting(setting), []).append(setting)
    titled: dict[str, list[Setting]] = {}
    for members in panels.values():
        first = members[0]
        names = [first.setup.model.name, first.setup.corpus.name]
        parts = [first.about.label, *(str(name) for name in names if name)]
        if first.place != "resid_post":
            parts.append(first.place)
        title = ", ".join(parts)
        if title in titled:
            title += f" ({first.setup.experiment or first.first.id[:6]})"
        if title in titled:
            title = f"{title[:-1]}, {first.first.id[:6]})"
        titled[title] = sorted(most_asked_first(members), key=lambda setting: setting.depth or 0)
    return titled


def _setting(setting: Setting) -> str:
    """Id of a config without its depth and what it asks: one for all depths of a kind of SAE.

    Two settings of one SAE at one depth then share a panel, and an estimator in both counts once.
    """
    config = sae_config(setting)
    source = {k: v for k, v in config["source"].items() if k not in ("site", "seed")}
    return content_id({**config, "source": source, "place": setting.place})


def _panel(axes: Any, settings: Sequence[Setting], of: Mapping[str, Look]) -> None:
    found_names = {name for setting in settings for name in variants(setting)}
    names = [name for name in of if name in found_names]
    depths = [setting.depth or 0 for setting in settings]
    step = 0.012 * max(10, max(depths) - min(depths))  # markers at one depth side by side
    for i, name in enumerate(names):
        colour, marker, dash = of[name]
        points = []
        by_depth: dict[int, Estimate] = {}  # of several settings the one with the most prompts
        for setting, depth in zip(settings, depths, strict=True):
            if (found := setting.estimate(f"{SCORE}/{name}")) is not None:
                by_depth.setdefault(depth, found)
        for depth, found in by_depth.items():
            x = depth + (i - (len(names) - 1) / 2) * step
            points.append((x, found.mean))
            whisker(axes, x, found, colour, horizontal=False)
        if points:
            style = {"color": colour, "marker": marker, "linestyle": dash}
            axes.plot(*zip(*points, strict=True), linewidth=0.6, **style)
    axes.set_xticks(sorted(set(depths)))
    margin = max(1.5, step * (len(names) / 2 + 1))
    axes.set_xlim(min(depths) - margin, max(depths) + margin)
    axes.axhline(0, color="#BBBBBB", linewidth=0.5, zorder=0)
    axes.grid(axis="y")
