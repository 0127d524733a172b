"""Worlds: what methods were tried on. Cells of one world share a table and a panel."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.results.declared import printable
from benchmarks.results.labels import differences, hyperparameters, seedless
from benchmarks.results.settings import Cell
from benchmarks.results.vocabulary import order
from gradsae.records.record import content_id

KEYS = ("source", "model", "corpus")
"""Parts of a config that say what a method was tried on."""


MAX_TITLE = 100  # characters


@dataclass(frozen=True, eq=False)
class World:
    title: str
    cells: list[Cell]
    """In order of method, then of hyperparameters."""


def make_worlds(cells: Iterable[Cell]) -> list[World]:
    """Synthetic worlds first, then layers by depth; no two have one title."""
    groups: dict[str, list[Cell]] = {}
    for cell in in_order(cells):
        groups.setdefault(_world(cell), []).append(cell)
    found = sorted(groups.values(), key=lambda group: _world_order(group[0]))
    same: dict[tuple[str, int, str], list[Cell]] = {}
    for first in (group[0] for group in found):
        name = (first.task, first.first.task["version"], world_title(first))
        same.setdefault(name, []).append(first)
    titles: dict[Cell, str] = {}
    for (_, _, title), firsts in same.items():
        more = [f" ({text})" for text in differences(firsts, KEYS)] if len(firsts) > 1 else [""]
        titles |= {cell: f"{title}{text}" for cell, text in zip(firsts, more, strict=True)}
    return [World(printable(titles[group[0]], MAX_TITLE), group) for group in found]


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Cells by method, then by label and hyperparameters."""
    return sorted(cells, key=_method_order)


def world_title(cell: Cell) -> str:
    """`superposition, 512 features in 128 dimensions` or `smollm2, resid_post.15, code`."""
    if cell.site:
        parts = [cell.setup.model.name, cell.site, cell.setup.corpus.name]
        return ", ".join(str(part) for part in parts if part)
    n, d = cell.setup.source.get("n_features"), cell.setup.source.get("width")
    size = f", {n} features in {d} dimensions" if n and d else ""
    return f"{cell.setup.source.name or 'unknown source'}{size}"


def _world(cell: Cell) -> str:
    """Id of what a method was tried on, without seeds: rows of one table share it."""
    config = cell.first.config
    parts = {key: config[key] for key in KEYS if key in config}
    return content_id([cell.task, cell.first.task["version"], seedless(parts)])


def _method_order(cell: Cell) -> tuple[Any, ...]:
    """By method, then by label and hyperparameters, with numbers in the order of their size."""
    name = [str(cell.setup.label or ""), *map(str, sorted(hyperparameters(cell).items()))]
    words = re.findall(r"\d*\.?\d+|\D+", " ".join(name))
    return order(cell.about), [_word_order(word) for word in words]


def _word_order(word: str) -> tuple[int, float, str]:
    return (0, float(word), "") if word[-1].isdigit() else (1, 0.0, word)


def _world_order(cell: Cell) -> tuple[bool, str, str, int]:
    depth = cell.depth if cell.depth is not None else -1
    named = (cell.setup.source.name, cell.setup.corpus.name)
    return (bool(cell.site), *named, depth)
