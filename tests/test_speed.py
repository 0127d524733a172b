"""The speed table: its ratios, its words, and that every case can run."""

import json
from typing import cast

import pytest
import torch

from benchmarks.speed import timing
from benchmarks.speed.__main__ import main
from benchmarks.speed.case import FLOOR, Absent, Case
from benchmarks.speed.memory import peak_bytes
from benchmarks.speed.steps import Shape, dense_threshold, dense_topk, floor, opening_biases, ours
from benchmarks.speed.table import cells, duration, lines
from benchmarks.speed.timing import Row, compare
from benchmarks.speed.topics import all_cases

SMALL = Shape(batch=96, d_in=16, d_sae=2048, k=4)


class Clock:
    """Time that passes only when a fake contender works."""

    def __init__(self) -> None:
        self.now = 0.0

    def take(self, *seconds: float):
        left = list(seconds)

        def work() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return lambda: work


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def case(ours, theirs, name: str = "other", bar: float = 2.0) -> Case:
    return Case(
        name="a case",
        shape="small",
        what="nothing",
        ours=ours,
        others={name: theirs},
        bars={name: bar},
    )


def test_a_ratio_is_the_median_over_pairs_of_other_over_ours(clock):
    # After two warm-up runs of each, the pairs are (1, 2), (1, 4), (2, 6).
    row = compare(case(clock.take(1, 1, 1, 1, 2), clock.take(1, 1, 2, 4, 6)), "other", pairs=3)
    assert (row.ratio, row.least, row.most) == (3, 2, 4)
    assert (row.seconds_ours, row.seconds_other, row.pairs) == (1, 4, 3)


def test_against_the_floor_the_ratio_is_ours_over_floor(clock):
    row = compare(case(clock.take(3), clock.take(2), FLOOR, 1.5), FLOOR, pairs=2)
    assert row.ratio == 1.5
    assert row.met is True


@pytest.mark.parametrize(("other", "ratio", "met"), [("x", 4.0, True), ("x", 3.9, False)])
def test_a_bar_is_met_or_missed(other, ratio, met):
    row = Row(name="n", shape="s", what="w", other=other, ratio=ratio, bar=4.0)
    assert row.met is met
    assert row.as_json()["met"] is met


def test_short_work_is_repeated_until_a_block_is_long_enough(clock):
    row = compare(case(clock.take(0.001), clock.take(0.004)), "other", pairs=1)
    assert row.ratio == pytest.approx(4)
    # Twice for the warm-up, then 100 and 25 times for blocks of LEAST_SECONDS.
    assert clock.now == pytest.approx(2 * 0.005 + 2 * timing.LEAST_SECONDS)


def test_an_absent_contender_says_why_and_ends_nothing():
    def absent():
        raise Absent("install it")

    row = compare(case(lambda: lambda: None, absent), "other", pairs=2)
    assert row.ratio is None
    assert "not run: install it" in cells(row)
    assert any("install it" in line for line in lines([cells(row)], ("h",) * 10))


def test_durations_read_as_a_person_writes_them():
    assert [duration(s) for s in (2.5, 0.0123, 0.00004)] == ["2.50 s", "12.3 ms", "40 us"]


def test_cases_have_different_names_and_bars_of_their_own_contenders():
    cases = all_cases()
    assert len({(c.name, c.shape) for c in cases}) == len(cases)
    assert all(set(c.bars) <= set(c.others) for c in cases)
    assert all(c.pairs >= 5 for c in cases)


def test_the_biases_open_as_many_latents_as_they_say():
    parts = cast("dict[str, torch.Tensor]", ours("gba", SMALL)())
    assert parts["l0"].item() == pytest.approx(64, rel=0.05)
    assert (opening_biases(SMALL) < 0).all()


@pytest.mark.parametrize("name", ["topk", "gba", "jumprelu", "l1"])
def test_every_step_of_ours_has_a_finite_loss(name):
    parts = cast("dict[str, torch.Tensor]", ours(name, SMALL)())
    assert all(part.isfinite() for part in parts.values())


@pytest.mark.parametrize("name", ["gba", "jumprelu", "l1"])
def test_dense_steps_and_the_floor_run(name):
    for work in (dense_threshold(name, SMALL), dense_topk(SMALL), floor(SMALL)):
        work()


def test_the_peak_is_that_of_a_process_of_its_own():
    ballast = torch.ones(200 * 2**20 // 4)  # 200 MiB here must not count there
    small = next(c for c in all_cases() if c.name == "topk step" and "4096" in c.shape)
    peak = peak_bytes(small, FLOOR)
    assert peak is not None
    assert 100 * 2**20 < peak < 2 * 2**30
    assert ballast.sum() > 0
    assert peak_bytes(small, "nobody") is None


def test_the_command_writes_what_it_prints(tmp_path, capsys, monkeypatch):
    found = case(lambda: lambda: None, lambda: lambda: None)
    monkeypatch.setattr("benchmarks.speed.__main__.all_cases", lambda: [found])
    path = tmp_path / "speed.json"
    done = main(["--only", "a case", "--pairs", "2", "--no-memory", "--json", str(path)])
    printed = capsys.readouterr().out
    assert done == 0
    assert "a case" in printed and ">= 2" in printed
    written = json.loads(path.read_text())
    assert written["rows"][0]["pairs"] == 2
    assert written["machine"]["torch"] == torch.__version__


def test_an_unknown_name_is_refused_with_the_known_ones(capsys):
    assert main(["--only", "topk steps"]) == 2
    assert "topk step" in capsys.readouterr().err


def test_pairs_must_be_a_whole_number(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--pairs", "0"])
    assert stopped.value.code == 2
    assert "--pairs: must be a whole number from 1, got '0'" in capsys.readouterr().err
