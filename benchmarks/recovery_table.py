"""The tables of known features and of growth in docs/results/recovery.md, from records alone.

python -m benchmarks.recovery_table           write it between its markers
python -m benchmarks.recovery_table --check   fail if the page and the records differ
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import growth_table
from benchmarks.launch.command import command
from benchmarks.render.cells import italics, name_of, number
from benchmarks.render.markdown import RESULTS, replaced, write_or_check
from benchmarks.results.labels import seedless
from benchmarks.results.settings import Estimate, Setting
from benchmarks.results.worlds import World, make_worlds
from gradsae.errors import UserError
from gradsae.tables.printing import Markdown, escaped, markdown_table

EXPERIMENT = "known_features"
SEEDS = f"{EXPERIMENT}_seeds"
COLUMNS = (
    *("detection/f1", "latents/f1", "recovery/mcc", "recovery/frr_0.9", "coverage/f1"),
    *("sparsity/l0", "consistency/mcs_0.9"),
)
NO_BEST = "sparsity/l0"
"""A column in which nothing is better than anything else."""


def markdown(settings: Sequence[Setting]) -> str:
    """Return one table: a block of rows per world, trained methods before controls.

    The best is bold unless it is 0. A number is the mean over seeds and half of its
    95 % t interval.
    """
    worlds = make_worlds(
        setting
        for setting in settings
        if setting.task == "recovery" and setting.setup.experiment == EXPERIMENT
    )
    if not worlds:
        raise UserError(
            f"no records of experiment={EXPERIMENT} among those read: "
            f"`python -m benchmarks.run experiment={EXPERIMENT}` makes some"
        )
    seeds = [c for c in settings if (c.task, c.setup.experiment) == ("consistency", SEEDS)]
    heads = ["world, method", *(settings[0].score(name).header for name in COLUMNS)]
    return markdown_table(heads, [row for world in worlds for row in _block(world, seeds)])


def _block(world: World, seeds: Sequence[Setting]) -> list[list[str]]:
    """Return the rows of one world, under a row with its name."""
    scored = {setting: _estimates(setting, seeds) for setting in world.settings}
    trained = [setting for setting in world.settings if not setting.about.is_control]
    best = {
        column: max((e.mean for setting in trained if (e := scored[setting][column])), default=None)
        for column in COLUMNS
        if column != NO_BEST
    }
    n = sorted({setting.n_seeds for setting in world.settings})
    count = f"{n[0]} seeds" if n[0] == n[-1] else f"{n[0]} to {n[-1]} seeds"
    head = Markdown(f"**{escaped(world.title)}** ({count})")
    rows: list[list[str]] = [[head, *[""] * len(COLUMNS)]]
    rows += [_row(name_of(setting), scored[setting], best) for setting in trained]
    controls = [setting for setting in world.settings if setting not in trained]
    return rows + [_row(italics(setting), scored[setting], {}) for setting in controls]


def _row(name: str, scored: dict[str, Estimate | None], best: dict[str, float | None]) -> list[str]:
    texts = []
    for column, estimate in scored.items():
        is_best = estimate is not None and estimate.mean > 0 and estimate.mean == best.get(column)
        texts.append(Markdown(f"**{number(estimate)}**") if is_best else number(estimate))
    return [name, *texts]


def _estimates(setting: Setting, seeds: Sequence[Setting]) -> dict[str, Estimate | None]:
    """Return the columns of a row; consistency comes from a record of its own task."""
    scored = {column: setting.estimate(column) for column in COLUMNS}
    for other in seeds:
        if _trained(other) == _trained(setting):
            scored["consistency/mcs_0.9"] = other.estimate("consistency/mcs_0.9")
    return scored


def _trained(setting: Setting) -> list[Any]:
    """Return source, method and length of training, without seeds."""
    return [seedless(setting.first.config.get(key)) for key in ("source", "trainer", "fit")]


def pages(settings: Sequence[Setting]) -> dict[Path, str]:
    page = RESULTS / "recovery.md"
    text = replaced(page.read_text(), EXPERIMENT, markdown(settings))
    return {page: replaced(text, growth_table.EXPERIMENT, growth_table.markdown(settings))}


def main() -> None:
    write_or_check("recovery_table", __doc__, pages)


if __name__ == "__main__":
    sys.exit(command(main))
