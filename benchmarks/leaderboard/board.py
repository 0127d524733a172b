"""What the board says: one table per task and source, ranks, badges, chance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.results.labels import labels
from benchmarks.results.reading import LOCAL_ORIGIN, OWN_ORIGIN
from benchmarks.results.rows import Line, columns, make_lines
from benchmarks.results.settings import MIN_SEEDS, Cell, Estimate
from benchmarks.results.worlds import World, make_worlds
from gradsae.about import Score
from gradsae.stats.intervals import Mean, seeds_interval

RANKED_BY = {
    "recovery": "recovery/mcc",
    "consistency": "consistency/pw_mcc",
    "influence": "influence/spearman",
    "steering": "steering/effect",
    "masking": "masking/drop",
    "steering_budget": "budget/effect_at_kl",
}
TASKS = {
    "recovery": "Recovery: does a training method find the features that are there?",
    "consistency": "Consistency: do two seeds find the same latents?",
    "influence": "Influence: does an estimate find the latents whose ablation moves the model?",
    "steering": "Steering: do the chosen latents move the target, and what else do they move?",
    "masking": "Masking: do the latents that a ranking names carry the answer to a question?",
    "steering_budget": "Steering on a budget: what is got before something else gives way?",
}
LEFT_OUT = ("grid",)
"""Tasks that choose settings: what comes of them is a figure, not a row to be ranked."""


@dataclass(frozen=True, kw_only=True)
class Row:
    line: Line
    rank: int | None
    unranked: str
    """Why there is no rank, or the empty string."""
    badge: str
    scores: dict[str, Estimate]
    """By column; a score that is absent has no entry."""


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
        return self.rows[0].line.cell.score(name)

    @property
    def ranked_by(self) -> str:
        """The score that ranks, or the empty string where none can."""
        score = RANKED_BY.get(self.task, "")
        return score if score in self.columns else ""

    @property
    def weights(self) -> str:
        """How the weights of the language model were rounded, or the empty string."""
        return next((row.line.cell.weights for row in self.rows if row.line.cell.weights), "")

    @property
    def heading(self) -> str:
        weights = f", weights {self.weights}" if self.weights else ""
        return f"{self.task} on {self.title}{weights}"


def make_tables(cells: Iterable[Cell]) -> list[Table]:
    """Tables by task and source; two versions of a task are two tables."""
    order = list(TASKS)
    worlds = sorted(
        make_worlds(cell for cell in cells if cell.task not in LEFT_OUT),
        key=lambda w: order.index(w.cells[0].task) if w.cells[0].task in order else len(order),
    )
    return [_make_table(world) for world in worlds]


def _make_table(world: World) -> Table:
    cells, first = world.cells, world.cells[0]
    lines = make_lines(cells, labels(cells))
    names = tuple(columns(first.task, lines))
    by = RANKED_BY.get(first.task, "")
    ranked = by if by in names else ""
    ranks = rank([line for line in lines if not _why_unranked(line, ranked)], ranked)
    rows = [
        Row(
            line=line,
            rank=ranks.get(i),
            unranked=_why_unranked(line, ranked),
            badge=badge(line.cell, cells, ranked),
            scores={name: found for name in names if (found := line.estimate(name))},
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
        chance=_chance(cells, names),
    )


def rank(lines: Sequence[Line], score: str) -> dict[int, int]:
    """By id of the line: 1 + the number of lines whose whole interval is better.

    Lines that their intervals do not set apart share a rank.
    """
    found = {id(line): line.estimate(score) for line in lines}
    lower = any(line.cell.score(score).better == "lower" for line in lines)
    sign = -1 if lower else 1
    spans = {i: sorted((sign * (e.low or 0), sign * (e.high or 0))) for i, e in found.items() if e}
    return {i: 1 + sum(other[0] > span[1] for other in spans.values()) for i, span in spans.items()}


def badge(cell: Cell, cells: Sequence[Cell], score: str) -> str:
    """Who vouches for a row: the project, this machine, its author, or author and project."""
    if cell.origin in (OWN_ORIGIN, LOCAL_ORIGIN):
        return {OWN_ORIGIN: "own", LOCAL_ORIGIN: "this machine"}[cell.origin]
    for own in (c for c in cells if c.origin == OWN_ORIGIN and c.key == cell.key):
        ours, theirs = own.estimate(score), cell.estimate(score)
        if ours and theirs and _overlap(ours, theirs):
            return f"reported by {cell.origin}, reproduced"
    return f"self-reported by {cell.origin}"


def _overlap(a: Estimate, b: Estimate) -> bool:
    if a.over != "seeds" or b.over != "seeds":
        return False
    return (a.low or 0) <= (b.high or 0) and (b.low or 0) <= (a.high or 0)


def _why_unranked(line: Line, score: str) -> str:
    if line.is_control:
        return "control"
    if not score:
        return "no ground truth to rank by"
    if line.cell.n_seeds < MIN_SEEDS:
        return f"{line.cell.n_seeds} of {MIN_SEEDS} seeds"
    found = line.estimate(score)
    if found is None or found.over != "seeds":
        return f"no {score} on {MIN_SEEDS} seeds"
    return ""


def _row_order(row: Row, score: str) -> tuple[bool, bool, int, float]:
    """Ranked rows first, controls last, better means first."""
    found = row.scores.get(score)
    value = -found.mean if found else 0.0
    return (row.line.is_control, row.rank is None, row.rank or 0, value)


def _chance(cells: Sequence[Cell], names: Sequence[str]) -> dict[str, Mean]:
    found = {}
    for name in names:
        values = [value for cell in cells for value in cell.values(f"{name}/chance")]
        if values:
            found[name] = seeds_interval(values)
    return found
