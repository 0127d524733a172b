"""Cells: the records of one method on one source, over their seeds."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.reading import LOCAL_ORIGIN, Entry
from benchmarks.scores import format_score
from gradsae.records import Record, content_id, group_by_seed, group_key, mean_interval, part

MIN_SEEDS = 3
"""Below this there is no interval over seeds and no rank."""

METHODS = {"topk": "TopK", "l1": "L1", "gba": "GBA", "ba": "BA"}

MAX_LABEL = 60  # characters

WORLD = ("source", "model", "corpus")
"""Parts of a config that say what a method was tried on."""

NAMES = {"label", "experiment"}
NOT_HYPERPARAMETERS = {"name", "_target_", "n_latents", "d_sae"}


class Estimate(NamedTuple):
    """A score with its 95 % interval, and over what the interval is taken."""

    mean: float
    low: float | None
    high: float | None
    n: int
    over: str
    """`seeds`; `prompts`, `windows` or `rows` of one record; empty where there is no interval."""


def _inside(score: str) -> str:
    """What the interval of a score within one record is taken over."""
    kinds = {"influence": "prompts", "steering": "prompts", "lm": "windows"}
    return kinds.get(score.partition("/")[0], "rows")


@dataclass(frozen=True, eq=False)
class Cell:
    """Entries that differ in nothing but their seeds, and come from one origin."""

    entries: tuple[Entry, ...]

    @property
    def records(self) -> list[Record]:
        return [entry.record for entry in self.entries]

    @property
    def first(self) -> Record:
        return self.entries[0].record

    @property
    def origin(self) -> str:
        return self.entries[0].origin

    @property
    def task(self) -> str:
        return self.first.task["name"]

    @property
    def key(self) -> str:
        """Id of the setting, whatever the seeds and whoever ran it."""
        return group_key(self.first)

    @property
    def n_seeds(self) -> int:
        """Training runs behind the cell; a record of consistency compares several."""
        others = self.part("ask", "others") if self.task == "consistency" else None
        return len(self.entries) + (len(others) if isinstance(others, list) else 0)

    def part(self, *keys: str) -> Any:
        return part(self.first, *keys)

    @property
    def method(self) -> str:
        return method_of(self.first)

    @property
    def site(self) -> str:
        return str(self.part("source", "site") or "")

    @property
    def depth(self) -> int | None:
        """Layer number at the end of the site (`resid_post.15`), or None."""
        tail = self.site.rpartition(".")[2]
        return int(tail) if tail.isdecimal() else None

    @property
    def seconds(self) -> float | None:
        """Mean over seeds."""
        known = [s for s in (r.cost["seconds"] for r in self.records) if s is not None]
        return sum(known) / len(known) if known else None

    def values(self, score: str) -> list[float]:
        return [float(r.scores[score]) for r in self.records if score in r.scores]

    def estimate(self, score: str) -> Estimate | None:
        """Over seeds from three seeds on; one record's own interval where it is alone."""
        values = self.values(score)
        if not values:
            return None
        mean, low, high, n = mean_interval(values)
        if n >= MIN_SEEDS:
            return Estimate(mean, low, high, n, "seeds")
        if n == 1:
            record = next(r for r in self.records if score in r.scores)
            if score in record.intervals:
                low, high = record.intervals[score]
                if self.task == "consistency":  # its interval is over its runs
                    return Estimate(mean, low, high, self.n_seeds, "seeds")
                return Estimate(mean, low, high, record.n.get(score, 0), _inside(score))
        return Estimate(mean, None, None, n, "")

    def mean(self, score: str) -> float | None:
        values = self.values(score)
        return sum(values) / len(values) if values else None

    def series(self, name: str) -> list[dict[str, list[Any]]]:
        """The series of this name, one per seed that has it."""
        return [r.series[name] for r in self.records if name in r.series]


def method_of(record: Record) -> str:
    """Short name of the training method, `topk` for one; from the class where there is no name."""
    name = part(record, "trainer", "name") or part(record, "trainer", "_target_") or "none"
    return str(name).rpartition(".")[2].lower()


def make_cells(entries: Iterable[Entry], task: str | None = None) -> list[Cell]:
    """Cells of one task (all tasks if None); origins and task versions are never mixed."""
    chosen = [e for e in entries if task is None or e.record.task["name"] == task]
    by_record = {id(entry.record): entry for entry in chosen}
    cells: list[Cell] = []
    for origin in dict.fromkeys(entry.origin for entry in chosen):
        of_origin = [entry.record for entry in chosen if entry.origin == origin]
        for group in group_by_seed(of_origin):
            cells.append(Cell(tuple(by_record[id(record)] for record in group)))
    return cells


def world(cell: Cell) -> str:
    """Id of what a method was tried on, without seeds: rows of one table share it."""
    config = cell.first.config
    parts = {key: config[key] for key in WORLD if key in config}
    return content_id([cell.task, cell.first.task["version"], _seedless(parts)])


def make_worlds(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells by world, synthetic ones first, then layers by depth."""
    groups: dict[str, list[Cell]] = {}
    for cell in in_order(cells):
        groups.setdefault(world(cell), []).append(cell)
    return sorted(groups.values(), key=lambda group: _world_order(group[0]))


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Cells by method, then by label and hyperparameters."""
    return sorted(cells, key=_method_order)


def world_title(cell: Cell) -> str:
    """`superposition, 512 features in 128 dimensions` or `smollm2, resid_post.15, code`."""
    if cell.site:
        parts = [cell.part("model", "name"), cell.site, cell.part("corpus", "name")]
        return ", ".join(str(part) for part in parts if part)
    n, d = cell.part("source", "n_features"), cell.part("source", "width")
    size = f", {n} features in {d} dimensions" if n and d else ""
    return f"{cell.part('source', 'name') or 'unknown source'}{size}"


def _method_order(cell: Cell) -> tuple[int, list[tuple[int, float, str]]]:
    """By method, then by label and hyperparameters, with numbers in the order of their size."""
    order = list(METHODS)
    place = order.index(cell.method) if cell.method in order else len(order)
    name = [str(cell.part("label") or ""), *map(str, sorted(_hyperparameters(cell).items()))]
    words = re.findall(r"\d*\.?\d+|\D+", " ".join(name))
    return place, [_word_order(word) for word in words]


def _word_order(word: str) -> tuple[int, float, str]:
    return (0, float(word), "") if word[-1].isdigit() else (1, 0.0, word)


def _world_order(cell: Cell) -> tuple[bool, str, str, int]:
    depth = cell.depth if cell.depth is not None else -1
    named = (str(cell.part("source", "name")), str(cell.part("corpus", "name")))
    return (bool(cell.site), *named, depth)


def labels(cells: Sequence[Cell]) -> list[str]:
    """A name for each cell: its label, or the method and what tells it from its like."""
    names = [_label(cell, [c for c in cells if c.method == cell.method]) for cell in cells]
    for name in {name for name in names if names.count(name) > 1}:
        same = [i for i, other in enumerate(names) if other == name]
        for i, more in zip(same, _differences([cells[i] for i in same]), strict=True):
            names[i] = f"{name} ({more})"
    return names


def _differences(cells: Sequence[Cell]) -> list[str]:
    """What tells cells of one name apart: up to two fields of the config, or the record's id."""
    flat = [dict(_flat(_seedless(cell.first.config))) for cell in cells]
    keys = [k for k in flat[0] if len({str(one.get(k)) for one in flat}) > 1 and k not in NAMES][:2]
    texts = [
        ", ".join(f"{k.rpartition('.')[2]}={_value(one.get(k))}" for k in keys) for one in flat
    ]
    if len(set(texts)) == len(texts) and keys:
        return texts
    if len({cell.origin for cell in cells}) == len(cells):
        return [cell.origin.replace(LOCAL_ORIGIN, "this machine") for cell in cells]
    return [f"{cell.origin} {cell.first.id[:6]}" for cell in cells]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _label(cell: Cell, alike: Sequence[Cell]) -> str:
    given = cell.first.config.get("label")
    if isinstance(given, str) and given.strip():
        return printable(given.strip(), MAX_LABEL)
    name = METHODS.get(cell.method, cell.method)
    mine = _hyperparameters(cell)
    telling = [
        key
        for key in mine
        if key == "k" or any(_hyperparameters(other).get(key) != mine[key] for other in alike)
    ]
    words = [name, *(f"{key}={_value(mine[key])}" for key in telling)]
    return printable(" ".join(words), MAX_LABEL)


def printable(text: str, limit: int) -> str:
    """One line of limited length: a record from a stranger must not steer a terminal or page."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _hyperparameters(cell: Cell) -> dict[str, Any]:
    trainer = cell.first.config.get("trainer")
    if not isinstance(trainer, dict):
        return {}
    return {
        key: value
        for key, value in trainer.items()
        if key not in NOT_HYPERPARAMETERS and isinstance(value, str | int | float)
    }


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if not isinstance(value, int) or value < 10_000 else format_score(value)


def _seedless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _seedless(v) for k, v in value.items() if k not in {"seed", "seeds"}}
    return value
