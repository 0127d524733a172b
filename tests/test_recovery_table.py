"""The table of docs/results/recovery.md shows the records, means and intervals, and no others."""

import re
from pathlib import Path
from typing import Any

import example_records as example
import numpy as np
import pytest
from scipy import stats

from benchmarks.recovery_table import markdown
from benchmarks.render.cells import number
from benchmarks.results.reading import Entry
from benchmarks.results.settings import Estimate, Setting, make_settings
from gradsae.errors import UserError
from gradsae.records.record import Record

TOPK, GBA, CEILING = {"name": "topk", "k": 8}, {"name": "gba"}, {"name": "ceiling"}


def settings_of(records: list[Record]) -> list[Setting]:
    return make_settings(Entry(record=r, path=Path(f"{r.id}.json"), origin="own") for r in records)


def some_records(experiment: str = "known_features") -> list[Record]:
    """Three methods on one world over three seeds, and how well the seeds of one agree."""
    records = [
        example.recovery(example.TOY, trainer, seed, frr, l0, experiment=experiment)
        for trainer, frr, l0 in [(TOPK, (0.9, 0.6), 8), (GBA, (0.9, 0.5), 4), (CEILING, (1, 1), 9)]
        for seed in range(3)
    ]
    more: dict[str, Any] = {
        "scores": {"consistency/mcs_0.9": 0.75},
        "intervals": {"consistency/mcs_0.9": [0.7, 0.8]},
    }
    more["experiment"] = f"{experiment}_seeds"
    return [*records, example.record("consistency", example.TOY, TOPK, 0, **more)]


def rows_of(table: str) -> dict[str, list[str]]:
    rows = [[text.strip() for text in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_a_row_holds_the_mean_and_half_of_the_t_interval_over_seeds():
    records = some_records()
    rows = rows_of(markdown(settings_of(records)))
    values = [
        r.scores["detection/f1"]
        for r in records
        if r.config["trainer"] == TOPK and r.task["name"] == "recovery"
    ]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    found = re.fullmatch(r"\*\*(\.\d{3}) ±(\.\d{3})\*\*", rows["TopK"][0])  # the best: bold
    assert found
    assert float(found[1]) == pytest.approx(np.mean(values), abs=6e-4)
    assert float(found[2]) == pytest.approx((high - low) / 2, abs=6e-4)
    assert rows["TopK"][-1] == "**.750 ±.050**"  # of the record over seeds
    assert rows["GBA"][-1] == "-"


def test_controls_stand_below_in_italics_and_never_win():
    table = markdown(settings_of(some_records()))
    names = list(rows_of(table))
    assert names[-1] == "*true features, pursuit*"
    assert "**" not in table.splitlines()[-1]
    assert rows_of(table)["*true features, pursuit*"][5] == "9.00 ±.00"


def test_records_of_other_experiments_are_left_out():
    with pytest.raises(UserError, match="no records of experiment=known_features"):
        markdown(settings_of(some_records("gba_toy")))


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.8123, 0.0126, ".812 ±.013"),
        (1.0, 0.0, "1.000 ±.000"),
        (7.912, 0.05, "7.91 ±.05"),
        (123.4, 10.2, "123 ±10"),
        (-0.01, 0.002, "-.010 ±.002"),
        (0.5, None, ".500"),
    ],
)
def test_numbers_are_short(mean, half, text):
    high = None if half is None else mean + half
    assert number(Estimate(mean, None, high, 3, "seeds")) == text
