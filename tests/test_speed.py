"""The speed table: its ratios, its words, and that every case can run."""

import json
from dataclasses import replace
from typing import cast

import pytest
import torch

from benchmarks.speed.__main__ import main
from benchmarks.speed.case import FLOOR, Absent
from benchmarks.speed.steps import Shape, batch, dense_threshold, dense_topk, opening_biases, ours
from benchmarks.speed.table import cells, duration
from benchmarks.speed.timing import Row, race
from benchmarks.speed.topics import all_cases
from benchmarks.speed.worker import Worker
from gradsae.errors import UserError

SMALL = Shape(batch=96, d_in=16, d_sae=2048, k=4)


class Fake:
    """A contender that takes the seconds it is given."""

    def __init__(self, *seconds: float) -> None:
        self.left = list(seconds)

    def seconds(self) -> float:
        return self.left.pop(0)

    def peak_bytes(self) -> int:
        return 2**30


def against(other: str, bar: float = 2.0) -> Row:
    return Row(name="a case", shape="small", unit="nothing", other=other, bar=bar)


def test_a_ratio_is_the_median_over_pairs_of_other_over_ours():
    row = race(against("other"), [Fake(1, 1, 2), Fake(2, 4, 6)], pairs=3)
    assert (row.ratio, row.least, row.most) == (3, 2, 4)
    assert (row.seconds_ours, row.seconds_other, row.pairs) == (1, 4, 3)


def test_against_the_floor_the_ratio_is_ours_over_floor():
    row = race(against(FLOOR, 1.5), [Fake(3, 3), Fake(2, 2)], pairs=2)
    assert row.ratio == 1.5
    assert row.met is True


@pytest.mark.parametrize(("other", "ratio", "met"), [("x", 4.0, True), ("x", 3.9, False)])
def test_a_bar_is_met_or_missed(other, ratio, met):
    row = Row(name="n", shape="s", unit="w", other=other, ratio=ratio, bar=4.0)
    assert row.met is met
    assert row.as_json()["met"] is met


def test_an_absent_contender_says_why_and_ends_nothing():
    row = replace(against("other"), absent="install it")
    assert row.met is None
    assert "not run" in cells(row)


def test_a_worker_answers_with_its_seconds_and_its_own_peak():
    ballast = torch.ones(400 * 2**20 // 4)  # 400 MiB here must not count there
    small = next(c for c in all_cases() if c.name == "topk step" and "4096" in c.shape)
    with Worker(small, FLOOR) as worker:
        assert 0 < worker.seconds() < 60
        assert 100 * 2**20 < worker.peak_bytes() < 1500 * 2**20
    assert ballast.sum() > 0


def test_a_worker_that_fails_says_why():
    small = next(c for c in all_cases() if c.name == "topk step")
    with pytest.raises(Absent, match="KeyError: 'nobody'"):
        Worker(small, "nobody")


def test_durations_read_as_a_person_writes_them():
    assert [duration(s) for s in (2.5, 0.0123, 0.00004)] == ["2.50 s", "12.3 ms", "40 us"]


def test_cases_have_different_names_and_bars_of_their_own_contenders():
    cases = all_cases()
    assert len({(c.name, c.shape) for c in cases}) == len(cases)
    assert all(set(c.bars) <= set(c.contenders) for c in cases)
    assert all(c.pairs >= 5 for c in cases)


def test_the_biases_open_as_many_latents_as_they_say():
    parts = cast("dict[str, torch.Tensor]", ours("gba", SMALL)())
    assert parts["l0"].item() == pytest.approx(64, rel=0.05)
    assert (opening_biases(SMALL) < 0).all()


@pytest.mark.parametrize("name", ["topk", "gba", "jumprelu", "l1"])
def test_every_step_of_ours_has_a_finite_loss(name):
    parts = cast("dict[str, torch.Tensor]", ours(name, SMALL)())
    assert all(part.isfinite() for part in parts.values())


@pytest.mark.parametrize("name", ["topk", "gba", "jumprelu"])
def test_a_dense_step_starts_from_the_error_of_ours(name):
    """Not so for l1, whose decoder begins with shorter rows than the dense one's."""
    parts = cast("dict[str, torch.Tensor]", ours(name, SMALL)())
    dense = dense_topk(SMALL) if name == "topk" else dense_threshold(name, SMALL)
    x = batch(SMALL)
    variance = (x - x.mean(0)).square().sum(1).mean()
    error = cast("torch.Tensor", dense())
    assert error.item() == pytest.approx((parts["fvu"] * variance).item(), rel=1e-4)


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    path = tmp_path / "speed.json"
    main(["--only", "gba step", "--against", FLOOR, "--pairs", "1", "--json", str(path)])
    (row,) = json.loads(path.read_text())["rows"]
    printed = capsys.readouterr().out
    assert "gba step" in printed
    assert f"{row['ratio']:.2f}x" in printed
    assert row["ratio"] == pytest.approx(row["seconds_ours"] / row["seconds_other"])


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"names are .*topk step"):
        main(["--only", "topk steps"])


def test_pairs_must_be_a_whole_number(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--pairs", "0"])
    assert stopped.value.code == 2
    assert "--pairs: must be a whole number from 1, got '0'" in capsys.readouterr().err
