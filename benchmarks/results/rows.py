"""Lines of a table: a cell, or for influence and steering one variant of a cell's scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.results.settings import Cell, Estimate
from benchmarks.results.vocabulary import COLUMNS, order
from gradsae.about import About

BY_VARIANT = ("influence", "steering", "masking", "steering_budget")
"""Tasks whose methods are the variants of a score; the SAE is only what they are tried on."""


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
        if self.cell.task not in BY_VARIANT:
            return None
        main = self._score(COLUMNS[self.cell.task][0])
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
    """Estimators or selectors of a cell, known ones first; one empty name for other tasks."""
    if cell.task not in BY_VARIANT:
        return [""]
    names = {name for record in cell.records for name in record.scores}
    main = COLUMNS[cell.task][0]
    found = {name.removeprefix(f"{main}/") for name in names if name.startswith(f"{main}/")}
    return sorted(found, key=lambda name: (order(cell.variant(name)), name)) or [""]


def columns(task: str, lines: Sequence[Line]) -> list[str]:
    """Scores that at least one line has, in the order of the task."""
    known = [c for c in COLUMNS.get(task, ()) if any(line.estimate(c) for line in lines)]
    if known:
        return known
    names = {name for line in lines for record in line.cell.records for name in record.scores}
    return sorted(names)[:8]
