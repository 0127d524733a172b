"""Draw how well each estimator agrees with ablation against the block."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.figures.drawing import Drawing, bind_pages, describe_intervals
from benchmarks.figures.estimators import (
    family_legend,
    family_looks,
    legend_columns,
    lower_end,
    stretched_axis,
)
from benchmarks.figures.looks import Look
from benchmarks.figures.style import (
    COLUMN,
    PAGE,
    batches,
    escape,
    hide,
    legend_height,
    line_style,
    new_figure,
    whisker,
    zero_line,
)
from benchmarks.results.rows import variants
from benchmarks.results.settings import Estimate, Setting, most_asked_first, sae_config, site_order
from benchmarks.results.worlds import in_order
from gradsae.records.record import content_id

NAME = "layer_profile"
COMMAND = "python -m benchmarks.run experiment=influence_depths"
SCORE = "influence/spearman"
COLUMNS = 3
PANELS_PER_PAGE = 9


def draw(settings: Sequence[Setting]) -> Drawing | None:
    settings = [
        setting for setting in settings if setting.task == "influence" and setting.depth is not None
    ]
    panels = group_by_sae(settings)
    if not panels:
        return None
    names = (name for setting in settings for name in variants(setting))
    look_by_name = family_looks(settings, names)
    pages = batches(list(panels.items()), PANELS_PER_PAGE)
    return bind_pages([_page(dict(page), look_by_name) for page in pages])


def _page(panels: Mapping[str, list[Setting]], look_by_name: Mapping[str, Look]) -> Drawing:
    settings = [setting for members in panels.values() for setting in members]
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width = COLUMN if columns == 1 else PAGE
    height = 0.4 + 1.9 * rows + legend_height(len(look_by_name), legend_columns(columns > 1))
    figure, grid = new_figure(rows, columns, width=width, height=height, sharey=True)
    for axes, (title, members) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, members, look_by_name)
        axes.set_title(escape(title))
    hide(list(grid.flat)[len(panels) :])
    for row in grid:
        row[0].set_ylabel("Spearman with ablation")
    for axes in list(grid.flat)[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel("block")  # the lowest of each column
    lows = [
        lower_end(estimate)
        for setting in settings
        for name in variants(setting)
        if (estimate := setting.estimate(f"{SCORE}/{name}")) is not None
    ]
    stretched_axis(grid[0, 0], min(lows))  # shared
    family_legend(figure, settings, look_by_name, [], wide=columns > 1)
    return Drawing(
        figure=figure,
        title="Agreement with ablation by block.",
        text="Spearman correlation between each estimate and the true effect of ablation over the "
        "active latents of a prompt, mean over prompts. The markers of one block stand side by "
        "side on grey, in the order of the legend. Vertical axes are stretched towards 1. "
        f"{describe_intervals(settings, f'{SCORE}/grad_times_act').capitalize()}.",
        settings=settings,
    )


def group_by_sae(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    """Return the settings of each panel by title: SAEs that differ in their block alone."""
    panels: dict[str, list[Setting]] = {}
    for setting in sorted(in_order(settings), key=site_order):
        panels.setdefault(_blockless_id(setting), []).append(setting)
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


def _blockless_id(setting: Setting) -> str:
    """Return the id of an SAE's config without its block.

    Two settings of one SAE share a panel, and an estimator that is in both counts once.
    """
    config = sae_config(setting)
    source = {k: v for k, v in config["source"].items() if k not in ("site", "seed")}
    return content_id({**config, "source": source, "place": setting.place})


def _panel(axes: Any, settings: Sequence[Setting], look_by_name: Mapping[str, Look]) -> None:
    present = {name for setting in settings for name in variants(setting)}
    names = [name for name in look_by_name if name in present]
    depths = [setting.depth or 0 for setting in settings]
    step = _gap(depths) / (len(names) + 8)  # between markers
    for i, name in enumerate(names):
        look = look_by_name[name]
        points = []
        for depth, estimate in _by_depth(settings, name).items():
            x = depth + (i - (len(names) - 1) / 2) * step
            points.append((x, estimate.mean))
            whisker(axes, x, estimate, look.colour, horizontal=False)
        if points:
            axes.plot(*zip(*points, strict=True), linewidth=0.6, **line_style(look))
    axes.set_xticks(sorted(set(depths)))
    margin = step * (len(names) / 2 + 1)
    for depth in set(depths) if len(set(depths)) > 1 else ():
        axes.axvspan(depth - margin, depth + margin, color="#F4F4F4", zorder=-1)
    axes.set_xlim(min(depths) - margin, max(depths) + margin)
    zero_line(axes)
    axes.grid(axis="y")


def _gap(depths: Sequence[int]) -> int:
    """Return the smallest distance between two blocks; 1 if there is only one."""
    blocks = sorted(set(depths))
    return min((b - a for a, b in pairwise(blocks)), default=1)


def _by_depth(settings: Sequence[Setting], name: str) -> dict[int, Estimate]:
    """Return the estimates of an estimator by block; of several settings the first one counts."""
    by_depth: dict[int, Estimate] = {}
    for setting in settings:
        if (estimate := setting.estimate(f"{SCORE}/{name}")) is not None:
            by_depth.setdefault(setting.depth or 0, estimate)
    return by_depth
