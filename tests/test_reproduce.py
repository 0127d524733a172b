"""Records made again stand beside the published ones and what a seed does to the score."""

from dataclasses import replace
from pathlib import Path

import example_records as example
import numpy as np
import pytest

from benchmarks import reproduce
from benchmarks.results.reading import Entry
from benchmarks.results.settings import make_settings
from gradsae.errors import UserError
from gradsae.records.record import Record

TOPK = {"name": "topk", "k": 8}


def entries(records: list[Record], origin: str) -> list[Entry]:
    return [Entry(record=r, path=Path(f"{r.id}.json"), origin=origin) for r in records]


def published() -> list[Record]:
    return [example.recovery(example.TOY, TOPK, seed, (0.8, 0.5), 8) for seed in range(3)]


def moved(record: Record, by: float) -> Record:
    scores = {**record.scores, "recovery/mcc": record.scores["recovery/mcc"] + by}
    return replace(record, scores=scores)


def test_a_row_holds_what_differs_and_what_a_seed_does():
    own = published()
    here = [moved(own[0], 0.03), moved(own[1], -0.04), own[2]]
    stranger = example.recovery(example.TOY, TOPK, 9, (0.8, 0.5), 8)
    found = reproduce.pairs(entries([*here, stranger], "local"), entries(own, "own"))
    assert [pair.made.id for pair in found] == [record.id for record in own]
    table = reproduce.rows(found, make_settings(entries(own, "own")))
    row = {line[1]: line for line in table}["MCC"]
    spread = np.std([record.scores["recovery/mcc"] for record in own], ddof=1)
    expected = (0.0025 / 3) ** 0.5
    assert row == [
        *("recovery", "MCC", "3", "1", f"{expected:.3f}", "0.040", own[1].id, f"{spread:.3f}")
    ]
    (still,) = (line for line in table if line[1] == "F1")
    assert still[3:7] == ["3", "0", "0", "-"]


def test_estimators_count_each_and_variants_of_a_score_do_not():
    own, here = (example.influence(15, TOPK, 0) for _ in range(2))
    names = [name for name in own.scores if name.startswith("influence/spearman/")]
    here.scores[names[0]] += 0.1
    (pair,) = reproduce.pairs(entries([here], "local"), entries([own], "own"))
    assert pair.differences("influence/spearman") == pytest.approx([0.1] + [0] * (len(names) - 1))
    one, other = published()[0], published()[0]
    other.scores["recovery/mcc/chance"] += 5
    (pair,) = reproduce.pairs(entries([other], "local"), entries([one], "own"))
    assert pair.differences("recovery/mcc") == [0]


def test_a_collaborators_record_is_not_what_the_project_published():
    own = published()
    with pytest.raises(UserError, match="no record made here has a published one"):
        reproduce.pairs(entries(own, "local"), entries(own, "collaborator"))


def test_one_setting_of_two_seeds_says_nothing_of_seeds():
    own = published()[:2]
    assert reproduce.between_seeds(make_settings(entries(own, "own")), "recovery/mcc") is None


def test_the_command_compares_a_folder_with_what_is_published(tmp_path, monkeypatch, capsys):
    own = published()
    there = {str(tmp_path): entries(own[:2], "local"), "published": entries(own, "own")}
    monkeypatch.setattr(reproduce, "read", there.__getitem__)
    monkeypatch.setattr("sys.argv", ["reproduce", "--records", str(tmp_path)])
    reproduce.main()
    assert "2 of 2 records made here" in capsys.readouterr().out
