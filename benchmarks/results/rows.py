"""Lines of a table: a setting, or for influence and steering one variant of a setting's scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.results.settings import Estimate, Setting
from benchmarks.results.vocabulary import order
from gradsae.about import About


@dataclass(frozen=True)
class Line:
    setting: Setting
    label: str
    variant: str = ""

    @property
    def about(self) -> About:
        """Label and flags of the estimator, or of the method where a line has none."""
        return self.setting.variant(self.variant) if self.variant else self.setting.about

    @property
    def is_control(self) -> bool:
        """True for what is shown and never ranked."""
        return self.about.is_control

    def estimate(self, column: str) -> Estimate | None:
        return self.setting.estimate(self._score(column))

    @property
    def n_inside(self) -> int | None:
        """Number of prompts (of masking: contexts) behind the main score, all seeds; or None."""
        if not self.variant:
            return None
        main = self._score(self.setting.headline[0])
        return sum(record.n.get(main, 0) for record in self.setting.records)

    def _score(self, column: str) -> str:
        return f"{column}/{self.variant}" if self.variant else column


def make_lines(settings: Sequence[Setting], labels: Sequence[str]) -> list[Line]:
    """Return the lines of settings of one task, in the order of the settings."""
    lines: list[Line] = []
    for setting, label in zip(settings, labels, strict=True):
        for variant in variants(setting):
            name = f"{setting.variant(variant).label}, {label}" if variant else label
            lines.append(Line(setting, name, variant))
    return lines


def variants(setting: Setting) -> list[str]:
    """Return the estimators that a setting compares, in the order of tables.

    One empty name where the methods are compared.
    """
    main = next(iter(setting.headline), "")
    if not main or not setting.compares_estimators:
        return [""]
    names = {name for record in setting.records for name in record.scores}
    estimators = {name.removeprefix(f"{main}/") for name in names if name.startswith(f"{main}/")}
    return sorted(estimators, key=lambda name: (order(setting.variant(name)), name)) or [""]


def columns(lines: Sequence[Line]) -> list[str]:
    """Return the scores that at least one line has, in the order of the task."""
    every = dict.fromkeys(column for line in lines for column in line.setting.headline)
    present = [column for column in every if any(line.estimate(column) for line in lines)]
    if present:
        return present
    names = {name for line in lines for record in line.setting.records for name in record.scores}
    return sorted(names)[:8]
