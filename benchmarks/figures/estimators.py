"""What figures of influence share: which SAEs are drawn, panels by layer, a legend by family."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.figures.looks import Look, looks
from benchmarks.figures.style import (
    COLUMN,
    PAGE,
    escape,
    legend_below,
    legend_height,
    line_handle,
    new_figure,
)
from benchmarks.results.rows import variants
from benchmarks.results.settings import (
    Estimate,
    Setting,
    methods_of,
    most_asked_first,
    sae_config,
    variants_of,
)
from benchmarks.results.vocabulary import order

COLUMNS = 3
TICKS = (-1, -0.5, 0, 0.5, 0.8, 0.9, 0.95, 1)
HEADROOM = 0.03
"""The axis would have 1 infinitely far away; so far beyond it it is cut."""


def one_sae_a_place(settings: Sequence[Setting]) -> list[Setting]:
    """One SAE for each site of each model, of one method wherever there is one, by depth.

    The method is that with the most settings; of several settings of one SAE it is that with the
    most estimators.
    """
    methods = [setting.method for setting in settings]
    abouts = methods_of(settings)
    best = max(sorted(abouts, key=lambda m: order(abouts[m])), key=methods.count, default=None)
    places: dict[tuple[str, str, str, int], Setting] = {}
    for setting in sorted(
        settings, key=lambda setting: (setting.method != best, -len(variants(setting)))
    ):
        places.setdefault(_place(setting), setting)
    return [places[place] for place in sorted(places)]


def same_sae(settings: Iterable[Setting], setting: Setting) -> list[Setting]:
    """Those settings that asked the same SAE, whatever they asked, the most prompts first."""
    own = sae_config(setting)
    return most_asked_first(other for other in settings if sae_config(other) == own)


def _place(setting: Setting) -> tuple[str, str, str, int]:
    model, corpus = setting.setup.model.name, setting.setup.corpus.name
    return model, corpus, setting.site.rpartition(".")[0], setting.depth or 0


def panel_title(setting: Setting) -> str:
    """`smollm2, resid_post.15, prose` and the method, over two lines."""
    names = [setting.setup.model.name, setting.site]
    what = [setting.about.label, setting.setup.corpus.name]
    lines = (", ".join(str(part) for part in parts if part) for parts in (names, what))
    return escape("\n".join(lines))


def panels(
    n: int, rows: Sequence[str], of: Mapping[str, Look], height: float
) -> tuple[Any, list[Any]]:
    """A figure of n stacks of axes, one row for each label, three stacks side by side.

    Below it there is room for a legend of these looks.
    """
    columns = min(COLUMNS, n)
    bands = -(-n // columns)
    legend = legend_height(len(of) + 2, legend_columns(columns > 1))
    figure, grid = new_figure(
        *(bands * len(rows), columns),
        width=COLUMN if columns == 1 else PAGE,
        height=0.7 + height * bands * len(rows) + legend,
        sharex=True,
        sharey="row",
    )
    stacks = [
        grid[band * len(rows) : (band + 1) * len(rows), column]
        for band in range(bands)
        for column in range(columns)
    ]
    for stack in stacks[:n]:
        stack[-1].tick_params(labelbottom=True)
    for stack in stacks[:n:columns]:
        for axes, label in zip(stack, rows, strict=True):
            axes.set_ylabel(label)
    for axes in (axes for stack in stacks[n:] for axes in stack):
        axes.set_visible(False)
    return figure, stacks[:n]


def stretched_axis(axes: Any, least: float) -> None:
    """From the least value to 1, with more room for the differences near 1."""
    import numpy as np

    def stretch(value: Any) -> Any:
        return -np.log(np.maximum(1 + HEADROOM - value, HEADROOM / 9))

    def back(value: Any) -> Any:
        return 1 + HEADROOM - np.exp(-value)

    axes.set_yscale("function", functions=(stretch, back))
    axes.set_ylim(min(least, 0) - 0.1, 1 + HEADROOM / 3)
    axes.set_yticks([tick for tick in TICKS if tick >= axes.get_ylim()[0]])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()


def low(found: Estimate) -> float:
    return found.mean if found.low is None else found.low


def family_looks(settings: Sequence[Setting], names: Iterable[str]) -> dict[str, Look]:
    """Return the looks of estimators, where members of a family stand together."""
    return looks(variants_of(settings, names))


def family_legend(
    figure: Any,
    settings: Sequence[Setting],
    of: Mapping[str, Look],
    more: Sequence[Any],
    *,
    wide: bool,
    **options: Any,
) -> None:
    """Below the panels, `wide` or a column wide; `options` change the handles."""
    abouts = variants_of(settings, of)
    handles = [line_handle(abouts[name].label, of[name], **options) for name in of]
    columns = legend_columns(wide)
    small = {"fontsize": 6, "columnspacing": 1.0, "handlelength": 3.0}
    legend_below(figure, [*handles, *more], columns, **small)


def legend_columns(wide: bool) -> int:
    return 4 if wide else 2
