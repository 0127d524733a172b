"""The page of scores, from what metrics and tasks declare."""

from itertools import groupby

from gradsae.about import Score
from gradsae.bench.catalogue import known_scores

HEAD = """# Scores

Every score that a record can hold, as the metric or task that gives it declares it. Written by
`python -m benchmarks.docs`. A name is `kind/score`; a third part is a variant: an estimator in
influence, masking and steering, a control or a threshold elsewhere. An interval within one record
is over what its last column says.
"""
BETTER = {"higher": "higher", "lower": "lower", "": "neither"}


def scores() -> str:
    """Return a table of scores for each kind, in the order in which they are declared."""
    declared = sorted(known_scores().values(), key=_kind)
    parts = [HEAD]
    for kind, group in groupby(declared, key=_kind):
        lines = [
            "| score | in tables | better | range | chance | meaning | interval over |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *map(_row, group),
        ]
        parts.append(f"## {kind}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _kind(score: Score) -> str:
    return score.name.partition("/")[0]


def _row(score: Score) -> str:
    chance = "" if score.chance is None else f"{score.chance:g}"
    cells = [f"`{score.name}`", score.header, BETTER[score.better], score.bounds, chance]
    cells += [score.meaning, score.over]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
