"""Which settings a figure shows, in which order, and under which heading."""

from collections.abc import Iterable, Sequence

from benchmarks.figures.style import escape
from benchmarks.results.rows import variants
from benchmarks.results.settings import Setting, methods_of, most_asked_first, sae_config
from benchmarks.results.vocabulary import order
from benchmarks.results.worlds import make_worlds


def with_series(settings: Sequence[Setting], task: str, series: str) -> list[Setting]:
    """Return the settings of a task whose records have a series."""
    return [setting for setting in settings if setting.task == task and setting.series(series)]


def sort_by_world(settings: Iterable[Setting]) -> list[Setting]:
    """Return the settings in the order of worlds, then of methods."""
    return [setting for world in make_worlds(settings) for setting in world.settings]


def pick_sae_per_site(settings: Sequence[Setting]) -> list[Setting]:
    """Return one SAE for each site of each model, sorted by model, stream and block.

    Wherever it can, it picks the method that has the most settings. Of several settings of one
    SAE it picks the one with the most estimators.
    """
    methods = [setting.method for setting in settings]
    abouts = methods_of(settings)
    best = max(sorted(abouts, key=lambda m: order(abouts[m])), key=methods.count, default=None)
    by_site: dict[tuple[str, str, str, int], Setting] = {}
    for setting in sorted(
        settings, key=lambda setting: (setting.method != best, -len(variants(setting)))
    ):
        by_site.setdefault(_site_key(setting), setting)
    return [by_site[site] for site in sorted(by_site)]


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


def _site_key(setting: Setting) -> tuple[str, str, str, int]:
    model, corpus = setting.setup.model.name, setting.setup.corpus.name
    return model, corpus, setting.site.rpartition(".")[0], setting.depth or 0
