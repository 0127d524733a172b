"""Which settings a figure shows, in which order, and under which heading."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.figures.style import escape, shown_labels
from benchmarks.results.rows import variants
from benchmarks.results.settings import (
    Setting,
    methods_of,
    most_asked_first,
    sae_config,
    site_order,
)
from benchmarks.results.vocabulary import order
from benchmarks.results.worlds import World, make_worlds


def with_series(settings: Sequence[Setting], task: str, series: str) -> list[Setting]:
    """Return the settings of a task whose records have a series."""
    return [setting for setting in settings if setting.task == task and setting.series(series)]


def sorted_worlds(settings: Iterable[Setting]) -> list[World]:
    """Return worlds in the order of panels: synthetic ones, then sites by model and block.

    Worlds of one site stand in the order of their number of tokens.
    """
    return sorted(make_worlds(settings), key=lambda world: _place(world.settings[0]))


def sort_by_world(settings: Iterable[Setting]) -> list[Setting]:
    """Return the settings in the order of worlds, then of methods."""
    return [setting for world in sorted_worlds(settings) for setting in world.settings]


def pick_sae_per_site(settings: Sequence[Setting]) -> list[Setting]:
    """Return one SAE for each site of each model, sorted by model, stream and block.

    Wherever it can, it picks the method that has the most settings. Of several settings of one
    SAE it picks the one with the most estimators.
    """
    methods = [setting.method for setting in settings]
    abouts = methods_of(settings)
    best = max(sorted(abouts, key=lambda m: order(abouts[m])), key=methods.count, default=None)
    by_site: dict[tuple[Any, ...], Setting] = {}
    for setting in sorted(
        settings, key=lambda setting: (setting.method != best, -len(variants(setting)))
    ):
        corpus = setting.setup.corpus.name
        by_site.setdefault((setting.setup.model.name, setting.site, corpus), setting)
    return sorted(by_site.values(), key=_place)


def settings_of_sae(settings: Iterable[Setting], setting: Setting) -> list[Setting]:
    """Return the settings that study the same SAE as `setting`, the most prompts first."""
    config = sae_config(setting)
    return most_asked_first(other for other in settings if sae_config(other) == config)


def panel_heading(setting: Setting) -> str:
    """Return two lines: `smollm2, resid_post.15`, then method and corpus."""
    first = [setting.setup.model.name, setting.site]
    second = [setting.about.label, setting.setup.corpus.name]
    lines = (", ".join(str(part) for part in parts if part) for parts in (first, second))
    return escape("\n".join(lines))


def panel_headings(settings: Sequence[Setting]) -> list[str]:
    """Return the headings of panels; settings of equal heading also show their labels."""
    headings = [panel_heading(setting) for setting in settings]
    return [
        heading if headings.count(heading) == 1 else f"{heading}\n{label}"
        for heading, label in zip(headings, shown_labels(settings), strict=True)
    ]


def _place(setting: Setting) -> tuple[Any, ...]:
    """Return the sort key of panels: model, stream, corpus, block and number of tokens."""
    if not setting.site:
        return (False,)
    model, name, is_not_stream, stream, _ = site_order(setting)
    corpus, n_tokens = setting.setup.corpus.name, setting.setup.source.get("n_tokens") or 0
    return True, model, name, is_not_stream, stream, corpus, setting.depth or 0, n_tokens
