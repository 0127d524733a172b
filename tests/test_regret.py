"""Regret from records: every expected number is worked out by hand beside it."""

import json
from pathlib import Path

import pytest
from example_records import record
from test_figures import settings_of

from benchmarks import regret
from benchmarks.figures import regret as figure
from benchmarks.leaderboard.board import make_tables
from benchmarks.regret import CHOOSING, MEAN, REPORTED, Run, choices, regrets, runs
from gradsae.about import About
from gradsae.metrics.grid import SERIES
from gradsae.records.record import Record

# Mean of the three scores by world and k, on the seed that chooses.
CHOOSE = {
    "a": {2: 0.9, 4: 0.6, 8: 0.3},
    "b": {2: 0.2, 4: 0.7, 8: 0.5},
    "c": {2: 0.1, 4: 0.5, 8: 0.8},
}


def grid(world: str, scores: dict[int, float], seed: int, experiment: str, default: int) -> Record:
    """A grid over k whose three scores are x - .1, x and x + .1."""
    ks = sorted(scores, key=lambda k: k != default)
    columns = {
        "k": ks,
        "is_default": [k == default for k in ks],
        "recovery.mcc": [scores[k] - 0.1 for k in ks],
        "recovery.frr_0.9": [scores[k] for k in ks],
        "detection.f1": [scores[k] + 0.1 for k in ks],
    }
    return record(
        *("grid", {"ask": {"settings": [{"k": k} for k in (2, 4, 8)]}}, {"name": "topk"}, seed),
        scores={"recovery/mcc": scores[default] - 0.1},
        series={SERIES: columns},
        label=world,
        experiment=experiment,
    )


def chosen() -> list[Record]:
    return [grid(world, scores, 100, CHOOSING, 4) for world, scores in CHOOSE.items()]


def reported() -> list[Record]:
    """World a alone, two seeds: best k=2, default k=4, constant k=8."""
    values = [{2: 0.8, 4: 0.5, 8: 0.9}, {2: 0.6, 4: 0.5, 8: 0.2}]
    return [grid("a", scores, seed, REPORTED, 4) for seed, scores in enumerate(values)]


def test_the_best_is_of_its_world_and_the_constant_of_the_others():
    # constant for a: k=8 has .5 + .8 on b and c, k=4 .7 + .5; for b: k=8 1.1, k=4 1.1, k=2 1.0,
    # and of equals the first tried, the default; for c: k=4 1.3, k=2 1.1, k=8 .8
    found = choices(runs(chosen(), CHOOSING))
    assert found["topk", "a"] == ((2,), (8,))
    assert found["topk", "b"] == ((4,), (4,))
    assert found["topk", "c"] == ((8,), (4,))


def test_a_constant_is_not_chosen_on_the_world_it_is_judged_on():
    # k=2 wins on a alone by far; were a counted, it would be a's constant: 1.2 + 9.1 against 1.3
    raised = {**CHOOSE, "a": {2: 9.9, 4: 0.6, 8: 0.3}}
    records = [grid(world, scores, 100, CHOOSING, 4) for world, scores in raised.items()]
    assert choices(runs(records, CHOOSING))["topk", "a"][1] == (8,)


def test_regret_is_best_less_default_seed_by_seed():
    found = regrets(runs(reported(), REPORTED), choices(runs(chosen(), CHOOSING)))["topk", "a"]
    assert found.best[MEAN] == pytest.approx([0.8, 0.6])
    assert found.best["recovery.mcc"] == pytest.approx([0.7, 0.5])
    assert found.default[MEAN] == pytest.approx([0.3, 0.1])
    assert found.constant[MEAN] == pytest.approx([-0.1, 0.4])


def test_a_world_whose_chosen_settings_were_not_run_is_left_out():
    only_default = [grid("a", {4: 0.5}, 0, REPORTED, 4)]
    assert regrets(runs(only_default, REPORTED), choices(runs(chosen(), CHOOSING))) == {}


def test_the_mean_of_a_setting_is_over_its_seeds():
    found = regret.means(runs(reported(), REPORTED))
    assert found["a", (2,)] == pytest.approx(0.7)  # (.8 + .6) / 2


def test_a_default_is_behind_the_best_setting_of_any_method():
    def run(method: str, k: int, score: float, is_default: bool) -> Run:
        return Run(
            method=method,
            about=About(label=method),
            world="a",
            seed=0,
            setting=(k,),
            is_default=is_default,
            scores=dict.fromkeys((MEAN, *regret.SCORES), score),
        )

    all_runs = [run("topk", 2, 0.7, False), run("topk", 4, 0.4, True), run("gba", 1, 0.9, True)]
    best = {("topk", "a"): ((2,), (2,)), ("gba", "a"): ((1,), (1,))}
    found = regrets(all_runs, best)
    assert regret.behind(found, found["topk", "a"]) == pytest.approx(0.5)  # .9 - .4
    assert regret.behind(found, found["gba", "a"]) == pytest.approx(0.0)


def test_the_table_shows_the_numbers_worked_out_above():
    found = regrets(runs(reported(), REPORTED), choices(runs(chosen(), CHOOSING)))
    row = regret.table(found).splitlines()[2]
    assert row.startswith("| TopK | 0.700 | 0.200 [")  # means of .8, .6 and of .3, .1
    assert "| 0.200 (a) | 0.150 [" in row  # mean of -.1 and .4
    assert row.endswith("| 0.200 |")


def test_what_is_written_for_the_second_experiment_names_places_in_the_grid():
    written = json.loads(regret.chosen_json(chosen()))
    assert written == {"a": {"topk": [0, 2]}, "b": {"topk": [1]}, "c": {"topk": [1, 2]}}


def test_the_figure_draws_means_of_seeds_and_of_worlds():
    from matplotlib import pyplot as plt

    drawing = figure.draw(settings_of([*chosen(), *reported()]))
    assert drawing is not None
    left, right = drawing.figure.axes
    assert [line.get_xdata()[0] for line in left.get_lines()[1:3]] == pytest.approx([0.2, 0.2])
    assert right.get_lines()[1].get_xdata()[0] == pytest.approx(0.15)
    plt.close("all")


def test_records_of_other_tasks_are_no_runs(tmp_path: Path):
    other = record("recovery", {}, {"name": "topk"}, 0, scores={"recovery/mcc": 0.5})
    assert runs([other], REPORTED) == []


def test_a_grid_is_no_row_of_the_board():
    assert make_tables(settings_of(chosen())) == []
