"""Lines of a table: a cell, or for influence and steering one variant of a cell's scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.results.settings import Cell, Estimate
from benchmarks.results.vocabulary import order
from gradsae.about import About


@dataclass(frozen=True)
class Line:
    cell: Cell
    label: str
    variant: str = ""

    @property
    def about(self) -> About:
        """What is compared: the estimator, or the method where a line has none."""
        return self.cell.variant(self.variant) if self.variant else self.cell.about

    @property
    def is_control(self) -> bool:
        """True for what is shown and never ranked."""
        return self.about.is_control

    def estimate(self, column: str) -> Estimate | None:
        return self.cell.estimate(self._score(column))

    @property
    def n_inside(self) -> int | None:
        """Prompts (of masking: contexts) behind the main score, over all seeds; None elsewhere."""
        if not self.variant:
            return None
        main = self._score(self.cell.headline[0])
        return sum(record.n.get(main, 0) for record in self.cell.records)

    def _score(self, column: str) -> str:
        return f"{column}/{self.variant}" if self.variant else column


def make_lines(cells: Sequence[Cell], labels: Sequence[str]) -> list[Line]:
    """Lines of cells of one task, in the order of the cells."""
    lines: list[Line] = []
    for cell, label in zip(cells, labels, strict=True):
        for variant in variants(cell):
            name = f"{cell.variant(variant).label}, {label}" if variant else label
            lines.append(Line(cell, name, variant))
    return lines


def variants(cell: Cell) -> list[str]:
    """Return the estimators that a setting compares, in the order of tables.

    One empty name where the main score stands for itself: there the methods are compared.
    """
    main = next(iter(cell.headline), "")
    names = {name for record in cell.records for name in record.scores}
    if main in names:
        return [""]
    found = {name.removeprefix(f"{main}/") for name in names if name.startswith(f"{main}/")}
    return sorted(found, key=lambda name: (order(cell.variant(name)), name)) or [""]


def columns(lines: Sequence[Line]) -> list[str]:
    """Scores that at least one line has, in the order of the task."""
    every = dict.fromkeys(column for line in lines for column in line.cell.headline)
    known = [column for column in every if any(line.estimate(column) for line in lines)]
    if known:
        return known
    names = {name for line in lines for record in line.cell.records for name in record.scores}
    return sorted(names)[:8]
