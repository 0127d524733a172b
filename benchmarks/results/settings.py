"""Settings: the records of one method on one source, over their seeds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.results.declared import (
    about_method,
    about_variant,
    headline_of,
    known_task,
    method_of,
    score_of,
)
from benchmarks.results.reading import Entry
from benchmarks.results.vocabulary import order
from gradsae.about import About, Score
from gradsae.records.record import Record, group_by_seed, group_key
from gradsae.records.setup import Setup
from gradsae.stats.intervals import seeds_interval
from gradsae.tables.printing import printable

MIN_SEEDS = 3
"""Below this there is no interval over seeds and no rank."""

MAX_NOTE = 100
"""Characters of a note on the weights of a model."""
MAX_DIGITS = 10
"""Of a layer number; what is longer is no layer."""

MODELS = ("smollm2",)
"""Language models that stand first in lists, in this order; the others follow by name."""


class Estimate(NamedTuple):
    """A score with its 95 % interval, and over what the interval is taken."""

    mean: float
    low: float | None
    high: float | None
    n: int
    over: str
    """`seeds`; `prompts`, `windows` or `rows` of one record; empty where there is no interval."""


@dataclass(frozen=True, eq=False)
class Setting:
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
        """Number of trainings behind the setting; a record of consistency compares several."""
        seeds = self.setup.ask.others if self.task == "consistency" else None
        return len(self.entries) + (len(seeds) if isinstance(seeds, list) else 0)

    @property
    def setup(self) -> Setup:
        """The config by name; its seeds are those of the first record."""
        return self.first.setup

    @property
    def method(self) -> str:
        return method_of(self.first)

    @property
    def about(self) -> About:
        """Label, family and flags of the method."""
        return about_method(self.first)

    def variant(self, name: str) -> About:
        """Return label, family and flags of an estimator, or of another end of a score's name."""
        return about_variant(self.first, name)

    @property
    def headline(self) -> tuple[str, ...]:
        """The scores that tables of its task show, in their order."""
        return headline_of(self.first)

    @property
    def ranked_by(self) -> str:
        """The score by which the board ranks, or the empty string."""
        task = known_task(self.first)
        return task.ranked_by if task else ""

    @property
    def compares_estimators(self) -> bool:
        """True if tables have a row per estimator; a stranger's record tells by naming some."""
        task = known_task(self.first)
        return task.compares_estimators if task else bool(self.first.about.get("variants"))

    @property
    def question(self) -> str:
        """Question of its task, for people; empty for a stranger's task."""
        task = known_task(self.first)
        return task.question if task else ""

    @property
    def is_on_board(self) -> bool:
        """False for tasks that choose settings: what comes of them is a figure, not a rank."""
        task = known_task(self.first)
        return task is None or task.is_on_board

    def score(self, name: str) -> Score:
        """Return what a score declares: header, direction, range."""
        return score_of(self.first, name)

    @property
    def site(self) -> str:
        return self.setup.source.site

    @property
    def place(self) -> str:
        """Kind of the site: `resid_post` of `resid_post.15`."""
        return self.site.partition(".")[0]

    @property
    def depth(self) -> int | None:
        """Layer number at the end of the site (`resid_post.15`), or None."""
        tail = self.site.rpartition(".")[2]
        return int(tail) if tail.isdecimal() and len(tail) < MAX_DIGITS else None

    @property
    def weights(self) -> str:
        """How the language model's weights were rounded, or the empty string."""
        about = self.first.provenance.get("model")
        if not isinstance(about, dict):
            return ""
        note = about.get("note") or about.get("quantisation")
        return printable(note, MAX_NOTE) if isinstance(note, str) and note != "none" else ""

    @property
    def seconds(self) -> float | None:
        """Mean over seeds."""
        times = [s for s in (r.cost["seconds"] for r in self.records) if s is not None]
        return sum(times) / len(times) if times else None

    def values(self, score: str) -> list[float]:
        return [float(r.scores[score]) for r in self.records if score in r.scores]

    def estimate(self, score: str) -> Estimate | None:
        """Return a score with its interval over seeds (from three on), or that of a lone record."""
        values = self.values(score)
        if not values:
            return None
        mean, low, high, n = seeds_interval(values)
        if n >= MIN_SEEDS:
            return Estimate(mean, low, high, n, "seeds")
        if n == 1:
            record = next(r for r in self.records if score in r.scores)
            if score in record.intervals:
                low, high = record.intervals[score]
                if self.task == "consistency":  # its interval is over its runs
                    return Estimate(mean, low, high, self.n_seeds, "seeds")
                return Estimate(mean, low, high, record.n.get(score, 0), self.score(score).over)
        return Estimate(mean, None, None, n, "")

    def mean(self, score: str) -> float | None:
        values = self.values(score)
        return sum(values) / len(values) if values else None

    def series(self, name: str) -> list[dict[str, list[Any]]]:
        """Return the series of this name, one per seed that has it."""
        return [r.series[name] for r in self.records if name in r.series]


def variants_of(settings: Iterable[Setting], names: Iterable[str]) -> dict[str, About]:
    """Return what estimators of some settings declare, in the order of tables."""
    settings = list(settings)
    abouts: dict[str, About] = {}
    for name in dict.fromkeys(names):
        every = [setting.variant(name) for setting in settings]
        abouts[name] = next((about for about in every if about.label != name), every[0])
    return dict(sorted(abouts.items(), key=lambda item: (order(item[1]), item[0])))


def methods_of(settings: Iterable[Setting]) -> dict[str, About]:
    """Return what the methods of some settings declare, in their order."""
    return {setting.method: setting.about for setting in settings}


def sae_config(setting: Setting) -> dict[str, Any]:
    """Return the part of a config that shapes the SAE."""
    return {k: v for k, v in setting.first.config.items() if k not in ("ask", "label")}


def most_asked_first(settings: Iterable[Setting]) -> list[Setting]:
    """Sort settings by their number of prompts or questions; of equals, the newest first."""
    newest = sorted(settings, key=lambda setting: setting.first.created, reverse=True)
    return sorted(newest, key=lambda setting: -n_asked(setting))


def sae_title(setting: Setting) -> str:
    """Return model, site, method and text of an SAE: `smollm2, resid_post.7, TopK, prose`."""
    parts = [setting.setup.model.name, setting.site, setting.about.label, setting.setup.corpus.name]
    return ", ".join(str(part) for part in parts if part)


def n_asked(setting: Setting) -> int:
    """Return the number of prompts (of masking: questions) of a setting; 0 for other tasks."""
    return counted(setting.first)


def counted(record: Record) -> int:
    """Return the number of prompts or questions of a record; 0 for tasks without."""
    from gradsae.bench import catalogue

    return max(record.n.get(name, 0) for name in catalogue.counts())


def site_order(setting: Setting) -> tuple[Any, ...]:
    """Return a sort key: model, kind of site (the residual stream first), method."""
    model = setting.setup.model.name
    return (
        MODELS.index(model) if model in MODELS else len(MODELS),
        model,
        (setting.place != "resid_post"),
        setting.place,
        order(setting.about),
    )


def make_settings(entries: Iterable[Entry], task: str | None = None) -> list[Setting]:
    """Group the records of one task (all tasks if None) into settings; origins are never mixed."""
    chosen = [e for e in entries if task is None or e.record.task["name"] == task]
    by_record = {id(entry.record): entry for entry in chosen}
    settings: list[Setting] = []
    for origin in dict.fromkeys(entry.origin for entry in chosen):
        of_origin = [entry.record for entry in chosen if entry.origin == origin]
        for group in group_by_seed(of_origin):
            settings.append(Setting(tuple(by_record[id(record)] for record in group)))
    return settings
