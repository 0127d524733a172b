"""A component that only a record knows shows its own label in tables, figures and on the board."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import example_records as example
import pytest

from benchmarks.figures.__main__ import draw_all, load_figure
from benchmarks.leaderboard.board import make_tables
from benchmarks.leaderboard.page import render
from benchmarks.render.console import summary_table
from benchmarks.results.reading import Entry
from benchmarks.results.settings import make_settings
from gradsae.about import About, Score
from gradsae.bench.declared import declarations
from gradsae.errors import UserError
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.task import Influence
from gradsae.prompts.sets import CutPrompts
from gradsae.records.record import Record
from gradsae.sources.two_sparsity import TwoSparsity
from gradsae.trainers.topk import TopK

METHOD = About(label="Their method", family="theirs")
ESTIMATOR = About(label="Their estimator", family="theirs", spends_checks=True)
SCORE = Score(name="theirs/odd", header="odd ones", better="lower", low=0, meaning="Odd ones.")
TRAINER = {"name": "their_method", "depth": 3}


def settings(records: list[Record]) -> Any:
    return make_settings(Entry(record=r, path=Path(f"{r.id}.json"), origin="own") for r in records)


def recoveries() -> list[Record]:
    about = {"method": asdict(METHOD), "scores": {SCORE.name: asdict(SCORE)}}
    return [
        example.recovery(example.SUPERPOSITION, TRAINER, seed, (0.9, 0.6), 4.0, about=about)
        for seed in range(3)
    ]


def test_a_strangers_method_has_its_label_in_console_board_page_and_figure(tmp_path: Path):
    records = recoveries()
    assert "Their method" in summary_table(records)
    tables = make_tables(settings(records))
    assert [row.line.label for row in tables[0].rows] == ["Their method"]
    assert "Their method" in render(tables, [], tmp_path)
    drawn, problems = draw_all(settings(records), tmp_path, only="recovery")
    assert problems == []
    assert "Their method" in (tmp_path / "recovery.svg").read_text() and len(drawn) == 1


def test_a_strangers_estimator_has_its_label_and_its_flag():
    record = example.influence(15, {"name": "topk", "k": 8}, 0)
    record.about["variants"] = {"their_estimator": asdict(ESTIMATOR)}
    scores = {f"influence/{name}/their_estimator": 0.5 for name in ("spearman", "pearson")}
    record = Record(**{**vars(record), "scores": {**record.scores, **scores}})
    assert "Their estimator, TopK k=8" in summary_table([record])
    (setting,) = settings([record])
    assert setting.variant("their_estimator").spends_checks


def test_a_strangers_task_shows_the_scores_that_its_record_declares_under_their_headers():
    record = example.record(
        *("their_task", example.SUPERPOSITION, TRAINER, 0),
        scores={"theirs/odd": 0.25, "theirs/even": 0.75},
        about={"method": asdict(METHOD), "scores": {SCORE.name: asdict(SCORE)}},
    )
    table = summary_table([record])
    assert "odd ones" in table and "0.250" in table and "theirs/even" not in table
    (board,) = make_tables(settings([record]))
    assert (board.ranked_by, board.score("theirs/odd").better) == ("", "lower")


def test_a_figure_from_elsewhere_is_one_file(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from benchmarks.figures.drawing import Drawing\n"
        "from benchmarks.figures.style import new_figure\n"
        "NAME, COMMAND = 'mine', 'python -m benchmarks.run'\n"
        "def draw(settings):\n"
        "    figure, _ = new_figure(1, 1, width=3, height=2)\n"
        "    return Drawing(figure=figure, title='Mine.', text='One dot.', settings=settings)\n"
    )
    figure = load_figure(str(file))
    drawn, problems = draw_all(settings(recoveries()), tmp_path, figures={figure.NAME: figure})
    assert ([each.name for each in drawn], problems) == (["mine"], [])
    assert "Mine." in (tmp_path / "mine.md").read_text()


@pytest.mark.parametrize("place", ["nowhere.py", "no.such.module", "gradsae.errors"])
def test_what_is_no_figure_is_refused_with_a_reason(place: str):
    with pytest.raises(UserError, match=f"--also {place}: "):
        load_figure(place)


def test_the_writer_records_what_method_scores_and_estimators_say(tmp_path: Path):
    record = example.influence(15, {"name": "topk", "k": 8}, 0)
    task = Influence(
        prompts=CutPrompts(n_prompts=2, length=10), estimators=(GradTimesAct(), MeanAct())
    )
    method = TopK(d_sae=16, k=2, optim=example.OPTIM)
    about = declarations(
        *(method, TwoSparsity(), task),
        ["influence/spearman/grad_times_act", "influence/n_active"],
    )
    assert about.get("method", {})["label"] == "TopK"
    assert about.get("source", {})["label"] == "two sparsities"
    assert set(about.get("scores", {})) == {"influence/spearman", "influence/n_active"}
    assert about.get("variants", {})["mean_act"]["label"] == "mean act"
    Record(**{**vars(record), "about": about})  # the schema takes it
