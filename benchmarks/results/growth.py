"""How scores move as training grows: the settings of one method on one world and width, by length.

A setting is ranked at the largest number of rows that its world and width were trained on, and
nothing is said of one that was trained on less. Pure functions of settings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.results.settings import Estimate, Setting
from benchmarks.results.vocabulary import order
from benchmarks.results.worlds import World, make_worlds
from gradsae.about import About
from gradsae.records.record import Record

EXPERIMENT = "growth"
ALONG = "along/scores"
"""`gradsae.metrics.along.SERIES`, whose import would load torch."""
PER_FEATURE = "recovery/mcc"
"""A score whose `n` is the number of true features."""


def n_rows(record: Record) -> int:
    """Return the number of rows that the SAE of a record was trained on; 0 where it is unknown."""
    fit = record.setup.fit
    return (fit.steps or 0) * (fit.batch_size or 0)


def width(record: Record) -> float | None:
    """Return the number of latents per true feature; None where features are not known.

    A grid's `n` is that of its default, as its scores are.
    """
    d_sae, n = record.setup.trainer.number("d_sae"), record.n.get(PER_FEATURE)
    return d_sae / n if d_sae and n else None


def most(share: float) -> float:
    """Return the most that F1, MCC, FRR and coverage can be at a width: each latent one feature."""
    return min(1.0, share)


@dataclass(frozen=True, eq=False)
class Curve:
    """One method on one world and width."""

    settings: Sequence[Setting]
    """One for each length of training, the longest last."""

    @property
    def last(self) -> Setting:
        return self.settings[-1]

    @property
    def about(self) -> About:
        return self.last.about

    def points(self, score: str) -> list[tuple[int, Estimate]]:
        """Return the rows and the score at the end of each training."""
        estimates = [(n_rows(each.first), each.estimate(score)) for each in self.settings]
        return [(rows, estimate) for rows, estimate in estimates if estimate is not None]

    def along(self, score: str) -> tuple[list[int], list[float]]:
        """Return rows and means over seeds of a score on the way of the longest training."""
        column = score.replace("/", ".")
        runs = [run for run in self.last.series(ALONG) if column in run]
        runs = [run for run in runs if run["rows"] == runs[0]["rows"]]
        if not runs:
            return [], []
        values = list(zip(*(run[column] for run in runs), strict=True))
        places = [i for i, each in enumerate(values) if None not in each]
        means = [sum(values[i]) / len(values[i]) for i in places]
        return [runs[0]["rows"][i] for i in places], means

    def falls_after(self, score: str) -> int | None:
        """Return the rows of its best length, where the score at the longest is clearly lower.

        Clearly: the intervals over seeds do not meet; where either has none, never.
        """
        points = self.points(score)
        if not points or self.last.score(score).better == "lower":
            return None
        rows, top = max(points, key=lambda point: point[1].mean)
        end = points[-1][1]
        if top.over != "seeds" or end.over != "seeds" or top.low is None or end.high is None:
            return None
        return rows if end.high < top.low else None


@dataclass(frozen=True, eq=False)
class Panel:
    """The curves of one world and width."""

    title: str
    width: float
    curves: Sequence[Curve]
    """In the order of methods."""

    @property
    def rows(self) -> int:
        """The largest number of rows that any of its methods was trained on."""
        return max(n_rows(curve.last.first) for curve in self.curves)

    @property
    def ranked(self) -> list[Curve]:
        """The trained methods that have been trained on all those rows."""
        at_end = [curve for curve in self.curves if n_rows(curve.last.first) == self.rows]
        return [curve for curve in at_end if not curve.about.is_control]

    @property
    def controls(self) -> list[Curve]:
        return [curve for curve in self.curves if curve.about.is_control]


def panels(settings: Iterable[Setting]) -> list[Panel]:
    """Return the panels of the experiment, by world and then by width, the narrowest first."""
    shown = [
        setting
        for setting in settings
        if setting.task == "recovery"
        and setting.setup.experiment == EXPERIMENT
        and width(setting.first)
    ]
    made: list[Panel] = []
    for world in make_worlds(shown):
        by_width: dict[float, list[Setting]] = {}
        for setting in world.settings:
            by_width.setdefault(width(setting.first) or 0.0, []).append(setting)
        made += [Panel(world.title, share, _curves(by_width[share])) for share in sorted(by_width)]
    return made


def falling(settings: Iterable[Setting]) -> dict[Setting, str]:
    """Return the longest trainings of methods whose ranked score falls, and after how many rows."""
    curves = [curve for panel in panels(settings) for curve in panel.curves]
    rows = {curve.last: curve.falls_after(curve.last.ranked_by) for curve in curves}
    return {each: f"falls after {rows_text(n)} rows" for each, n in rows.items() if n is not None}


def by_width(world: World) -> list[World]:
    """Return the settings of recovery on a world, one part for each width; other tasks whole.

    A part's title says its width where there are several, or where the experiment chose it.
    """
    if world.settings[0].task != "recovery":
        return [world]
    parts: dict[float | None, list[Setting]] = {}
    for setting in world.settings:
        parts.setdefault(width(setting.first), []).append(setting)
    if len(parts) == 1 and all(each.setup.experiment != EXPERIMENT for each in world.settings):
        return [world]
    ordered = sorted(parts.items(), key=lambda item: item[0] or 0.0)
    return [
        World(f"{world.title}, {share:g} latents a feature" if share else world.title, settings)
        for share, settings in ordered
    ]


def longest(settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings, of those of `experiment=growth` only the longest of each method."""
    most_rows: dict[str, int] = {}
    for setting in settings:
        if setting.setup.experiment == EXPERIMENT:
            rows = n_rows(setting.first)
            most_rows[setting.method] = max(rows, most_rows.get(setting.method, 0))
    return [
        setting
        for setting in settings
        if setting.setup.experiment != EXPERIMENT
        or n_rows(setting.first) == most_rows[setting.method]
    ]


def _curves(settings: Sequence[Setting]) -> list[Curve]:
    """Return a curve for each method; of settings of one length, the one with the most seeds."""
    by_method: dict[str, dict[int, Setting]] = {}
    for setting in sorted(settings, key=lambda each: each.n_seeds):
        by_method.setdefault(setting.method, {})[n_rows(setting.first)] = setting
    curves = [Curve([by_rows[rows] for rows in sorted(by_rows)]) for by_rows in by_method.values()]
    return sorted(curves, key=lambda curve: order(curve.about))


def rows_text(rows: int) -> str:
    """Return a number of rows for people: `0.5M`, `33M`, `600k`."""
    if rows < 400_000:
        return f"{rows / 1000:.0f}k"
    return f"{rows / 1e6:.1f}M" if rows < 9.95e6 else f"{rows / 1e6:.0f}M"
