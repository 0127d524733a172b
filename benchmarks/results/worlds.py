"""Worlds: sources with their model and text. Settings on one world share a table and a panel."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.results.declared import about_source
from benchmarks.results.labels import differences, hyperparameters, seedless
from benchmarks.results.settings import Setting
from benchmarks.results.vocabulary import order
from benchmarks.synthsaebench.world import NAME, version_of
from gradsae.records.record import content_id
from gradsae.tables.printing import printable

KEYS = ("source", "model", "corpus")
"""Parts of a config that make the world."""


MAX_TITLE = 100  # characters


@dataclass(frozen=True, eq=False)
class World:
    title: str
    settings: list[Setting]
    """In order of method, then of hyperparameters."""


def make_worlds(settings: Iterable[Setting]) -> list[World]:
    """Return the worlds, synthetic ones first, then layers by depth; titles are distinct."""
    groups: dict[str, list[Setting]] = {}
    for setting in in_order(settings):
        groups.setdefault(_world(setting), []).append(setting)
    worlds = sorted(groups.values(), key=lambda group: _world_order(group[0]))
    same: dict[tuple[str, int, str], list[Setting]] = {}
    for first in (group[0] for group in worlds):
        name = (first.task, first.first.task["version"], world_title(first))
        same.setdefault(name, []).append(first)
    titles: dict[Setting, str] = {}
    for (_, _, title), firsts in same.items():
        endings = [f" ({text})" for text in differences(firsts, KEYS)] if len(firsts) > 1 else [""]
        titles |= {setting: f"{title}{text}" for setting, text in zip(firsts, endings, strict=True)}
    return [World(printable(titles[group[0]], MAX_TITLE), group) for group in worlds]


def in_order(settings: Iterable[Setting]) -> list[Setting]:
    """Sort settings by method, then by label and hyperparameters."""
    return sorted(settings, key=_method_order)


def world_title(setting: Setting) -> str:
    """Return `superposition, 512 features in 128 dimensions` or `smollm2, resid_post.15, code`."""
    if setting.site:
        parts = [setting.setup.model.name, setting.site, setting.setup.corpus.name]
        return ", ".join(str(part) for part in parts if part)
    if version := version_of(setting.first):
        return f"{NAME} {version}"
    n, d = setting.setup.source.get("n_features"), setting.setup.source.get("width")
    size = f", {n} features in {d} dimensions" if n and d else ""
    return f"{about_source(setting.first).label}{size}"


def _world(setting: Setting) -> str:
    """Return the id of a setting's world, without seeds: rows of one table share it."""
    config = setting.first.config
    parts = {key: config[key] for key in KEYS if key in config}
    return content_id([setting.task, setting.first.task["version"], seedless(parts)])


def _method_order(setting: Setting) -> tuple[Any, ...]:
    """Return a sort key: method, label, hyperparameters with numbers by their size."""
    name = [str(setting.setup.label or ""), *map(str, sorted(hyperparameters(setting).items()))]
    words = re.findall(r"\d*\.?\d+|\D+", " ".join(name))
    return order(setting.about), [_word_order(word) for word in words]


def _word_order(word: str) -> tuple[int, float, str]:
    return (0, float(word), "") if word[-1].isdecimal() else (1, 0.0, word)


def _world_order(setting: Setting) -> tuple[bool, str, str, int]:
    depth = setting.depth if setting.depth is not None else -1
    named = (setting.setup.source.name, setting.setup.corpus.name)
    return (bool(setting.site), *named, depth)
