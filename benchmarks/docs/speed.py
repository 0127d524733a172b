"""The table of docs/speed.md, from what `benchmarks.speed` measured."""

import json
from pathlib import Path
from typing import Any

from benchmarks.speed.case import FLOOR
from benchmarks.speed.table import duration
from gradsae.tables.printing import markdown_table

HEADS = ("what", "against", "times as fast", "ours", "pairs", "size")
NAMES = {
    "saelens": "sae-lens",
    "dictionary_learning": "dictionary-learning",
    "dense": "dense torch",
    FLOOR: "the floor",
    "plain": "a forward pass per latent",
}
"""Contenders of `benchmarks.speed` whose names a reader does not know, in words."""


def speed(path: Path) -> str:
    """Return a row per contender: how many times as fast ours is, with its range over pairs."""
    rows = [row for row in json.loads(path.read_text())["rows"] if row["absent"] is None]
    return markdown_table(HEADS, [_row(row) for row in rows])


def _row(row: dict[str, Any]) -> list[str]:
    ratio, low, high = row["ratio"], row["least"], row["most"]
    if row["other"] == FLOOR:  # stored as ours / floor
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
    return [
        row["name"],
        NAMES.get(row["other"], row["other"]),
        f"{ratio:.2g} ({low:.2g} to {high:.2g})",
        duration(row["seconds_ours"]),
        str(row["pairs"]),
        row["shape"],
    ]
