"""The tables of the board: one per task and source, with ranks, badges and chance."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.results.growth import by_width, falling, longest, n_rows, rows_text
from benchmarks.results.labels import labels
from benchmarks.results.reading import LOCAL_ORIGIN, OWN_ORIGIN
from benchmarks.results.rows import Line, columns, make_lines
from benchmarks.results.settings import MIN_SEEDS, Estimate, Setting
from benchmarks.results.vocabulary import TASKS
from benchmarks.results.worlds import World, make_worlds
from benchmarks.synthsaebench.terms import TERMS
from benchmarks.synthsaebench.world import version_of
from gradsae.about import Score
from gradsae.stats.intervals import Mean, seeds_interval


@dataclass(frozen=True, kw_only=True)
class Row:
    line: Line
    rank: int | None
    unranked: str
    """Why there is no rank, or the empty string."""
    badge: str
    falls: str
    """After how many rows of training its ranked score falls, or the empty string."""
    scores: dict[str, Estimate]
    """By column; a score that is absent has no entry."""

    @property
    def label(self) -> str:
        """Its name, and that it falls where it does."""
        return f"{self.line.label}, {self.falls}" if self.falls else self.line.label


@dataclass(frozen=True, kw_only=True)
class Table:
    task: str
    version: int
    title: str
    """What the methods were tried on."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    chance: dict[str, Mean]
    """By column: the score of random directions, mean over all records of the table."""

    def score(self, name: str) -> Score:
        """What a score means: header, direction, range."""
        return self.rows[0].line.setting.score(name)

    @property
    def ranked_by(self) -> str:
        """The score that ranks, or the empty string where none can."""
        score = self.rows[0].line.setting.ranked_by
        return score if score in self.columns else ""

    @property
    def question(self) -> str:
        """What the task asks, for people; its name where the task does not say."""
        return self.rows[0].line.setting.question or self.task

    @property
    def weights(self) -> str:
        """How the weights of the language model were rounded, or the empty string."""
        return next((row.line.setting.weights for row in self.rows if row.line.setting.weights), "")

    @property
    def heading(self) -> str:
        weights = f", weights {self.weights}" if self.weights else ""
        return f"{self.task} on {self.title}{weights}"


def make_tables(settings: Iterable[Setting]) -> list[Table]:
    """Tables by task and source, of recovery also by width; two versions of a task are two tables.

    Of the trainings of `experiment=growth` the longest of each method is shown.
    """
    settings = list(settings)
    falls = falling(settings)
    worlds = make_worlds(setting for setting in settings if setting.is_on_board)
    parts = [part for world in sorted(worlds, key=_task_order) for part in by_width(world)]
    return [_make_table(World(part.title, longest(part.settings)), falls) for part in parts]


def _task_order(world: World) -> int:
    task = world.settings[0].task
    return TASKS.index(task) if task in TASKS else len(TASKS)


def _make_table(world: World, falls: Mapping[Setting, str]) -> Table:
    settings, first = world.settings, world.settings[0]
    lines = make_lines(settings, labels(settings))
    names = tuple(_columns(lines))
    ranked = first.ranked_by if first.ranked_by in names else ""
    why = _why_unranked_each(lines, ranked)
    ranks = rank([line for line in lines if not why[id(line)]], ranked)
    published = {setting.key: setting for setting in settings if setting.origin == OWN_ORIGIN}
    rows = [
        Row(
            line=line,
            rank=ranks.get(i),
            unranked=why[i],
            badge=badge(line.setting, published, ranked),
            falls=falls.get(line.setting, ""),
            scores={name: estimate for name in names if (estimate := line.estimate(name))},
        )
        for line, i in zip(lines, map(id, lines), strict=True)
    ]
    rows.sort(key=lambda row: _row_order(row, ranked))
    return Table(
        task=first.task,
        version=first.first.task["version"],
        title=world.title,
        columns=names,
        rows=tuple(rows),
        chance=_chance(settings, names),
    )


def _columns(lines: Sequence[Line]) -> list[str]:
    """Return the scores of a table; on SynthSAEBench-16k, those of its authors stand first."""
    if not version_of(lines[0].setting.first):
        return columns(lines)
    theirs = [term.score for term in TERMS if any(line.estimate(term.score) for line in lines)]
    return list(dict.fromkeys([*theirs, *columns(lines)]))


def rank(lines: Sequence[Line], score: str) -> dict[int, int]:
    """Return ranks by the `id` of a line: 1 + the number of lines whose whole interval is better.

    Lines whose intervals overlap share a rank.
    """
    estimates = {id(line): line.estimate(score) for line in lines}
    lower = any(line.setting.score(score).better == "lower" for line in lines)
    sign = -1 if lower else 1
    spans = {
        i: sorted((sign * (e.low or 0), sign * (e.high or 0))) for i, e in estimates.items() if e
    }
    lows = sorted(low for low, _ in spans.values())
    return {i: 1 + len(lows) - bisect_right(lows, high) for i, (_, high) in spans.items()}


def badge(setting: Setting, published: Mapping[str, Setting], score: str) -> str:
    """Return who vouches for a row: the project, this machine, its author, author and project.

    `published` are the project's settings by key.
    """
    if setting.origin in (OWN_ORIGIN, LOCAL_ORIGIN):
        return {OWN_ORIGIN: "own", LOCAL_ORIGIN: "this machine"}[setting.origin]
    if same := published.get(setting.key):
        ours, theirs = same.estimate(score), setting.estimate(score)
        if ours and theirs and _overlap(ours, theirs):
            return f"reported by {setting.origin}, reproduced"
    return f"self-reported by {setting.origin}"


def _overlap(a: Estimate, b: Estimate) -> bool:
    if a.over != "seeds" or b.over != "seeds":
        return False
    return (a.low or 0) <= (b.high or 0) and (b.low or 0) <= (a.high or 0)


def _why_unranked_each(lines: Sequence[Line], score: str) -> dict[int, str]:
    """Return why a line has no rank, or the empty string, by the `id` of the line.

    Of recovery only the longest of the trainings that could be ranked are.
    """
    why = {id(line): _why_unranked(line, score) for line in lines}
    could = [each for each in lines if not why[id(each)] and each.setting.task == "recovery"]
    most_rows = max((n_rows(each.setting.first) for each in could), default=0)
    for each in could:
        if (rows := n_rows(each.setting.first)) < most_rows:
            why[id(each)] = f"{rows_text(rows)} of {rows_text(most_rows)} rows"
    return why


def _why_unranked(line: Line, score: str) -> str:
    if line.is_control:
        return "control"
    if not score:
        return "no ground truth to rank by"
    if line.setting.n_seeds < MIN_SEEDS:
        return f"{line.setting.n_seeds} of {MIN_SEEDS} seeds"
    estimate = line.estimate(score)
    if estimate is None or estimate.over != "seeds":
        return f"no {score} on {MIN_SEEDS} seeds"
    return ""


def _row_order(row: Row, score: str) -> tuple[bool, bool, int, float]:
    """Return the sort key of a row: ranked rows first, controls last, better means first."""
    estimate = row.scores.get(score)
    value = -estimate.mean if estimate else 0.0
    return (row.line.is_control, row.rank is None, row.rank or 0, value)


def _chance(settings: Sequence[Setting], names: Sequence[str]) -> dict[str, Mean]:
    chances = {}
    for name in names:
        values = [value for setting in settings for value in setting.values(f"{name}/chance")]
        if values:
            chances[name] = seeds_interval(values)
    return chances
