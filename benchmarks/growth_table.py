"""The table of growth in docs/results/recovery.md: rankings at the largest number of rows.

It is written by `python -m benchmarks.recovery_table`, with the other table of that page.
"""

from collections.abc import Sequence

from benchmarks.render.cells import italics, name_of, number
from benchmarks.render.markdown import plain
from benchmarks.results.growth import EXPERIMENT, Curve, Panel, most, panels, rows_text
from benchmarks.results.settings import Estimate, Setting
from gradsae.tables.printing import Markdown, escaped, markdown_table

COLUMNS = (
    *("detection/f1", "recovery/mcc", "recovery/frr_0.8", "recovery/frr_0.9", "coverage/f1"),
    *("reconstruction/fvu", "sparsity/l0", "sparsity/dead"),
)
RANKED_BY = "detection/f1"
BOUNDED = COLUMNS[:5]
"""Scores over all features: so many latents per feature is the most that they can be."""
NONE = f"No records yet: `python -m benchmarks.run experiment={EXPERIMENT}`."


def markdown(settings: Sequence[Setting]) -> str:
    """Return one table: a block for each world and width, the best F1 first, then controls.

    The last columns are F1 after shorter trainings, and after how many rows which scores fell.
    """
    blocks = panels(settings)
    if not blocks:
        return NONE
    first = blocks[0].curves[0].last
    heads = ["world, method", *(first.score(name).header for name in COLUMNS)]
    heads += ["F1 after shorter trainings", "falls after"]
    return markdown_table(heads, [row for block in blocks for row in _block(block)])


def _block(panel: Panel) -> list[list[str]]:
    """Return the rows of one world and width under a row with its name, length and ceiling."""
    length = f"{panel.width:g} latents a feature, {rows_text(panel.rows)} rows"
    name = f"**{escaped(panel.title)}, {length}**"
    ceiling = plain(most(panel.width), 3)
    head = [Markdown(name), *(ceiling if column in BOUNDED else "" for column in COLUMNS)]
    ranked = sorted(panel.ranked, key=_by_f1)
    controls = [_row(italics(curve.last), curve) for curve in panel.controls]
    rows = [_row(name_of(curve.last), curve) for curve in ranked]
    return [[*head, Markdown("*most there can be*"), ""], *rows, *controls]


def _by_f1(curve: Curve) -> float:
    return -(curve.last.mean(RANKED_BY) or 0.0)


def _row(name: str, curve: Curve) -> list[str]:
    shorter = [
        f"{number(Estimate(estimate.mean, None, None, estimate.n, ''))} ({rows_text(rows)})"
        for rows, estimate in curve.points(RANKED_BY)[:-1]
    ]
    return [
        name,
        *(number(curve.last.estimate(column)) for column in COLUMNS),
        ", ".join(shorter),
        _falls(curve),
    ]


def _falls(curve: Curve) -> str:
    """Return `F1, MCC: 2.0M`, the scores that are clearly lower at the end than at their best."""
    if curve.about.is_control:
        return ""
    names: dict[str, list[str]] = {}
    for score in BOUNDED:
        if (rows := curve.falls_after(score)) is not None:
            names.setdefault(rows_text(rows), []).append(curve.last.score(score).header)
    return "; ".join(f"{', '.join(scores)}: {rows}" for rows, scores in names.items())
