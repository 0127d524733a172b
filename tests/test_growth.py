"""As training grows: rankings at the largest length, methods that fall, choices on other seeds."""

from typing import Any

import example_records as example
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_configs import composed
from test_recovery_table import rows_of, settings_of

from benchmarks import growth_table, tuning
from benchmarks.figures import growth as figure
from benchmarks.leaderboard.board import make_tables
from benchmarks.results.growth import panels, rows_text
from gradsae.config import resolvers
from gradsae.errors import UserError
from gradsae.records.record import Record

WORLD = example.TOY
"""128 features."""
TOPK, GBA, CEILING = {"name": "topk"}, {"name": "gba"}, {"name": "ceiling_linear"}
LOOKS = {"rows": [100_000, 200_000], "detection.f1": [0.1, 0.2], "recovery.mcc": [0.1, None]}


def trained(
    trainer: dict[str, Any], steps: int, f1: float, d_sae: int = 128, experiment: str = "growth"
) -> list[Record]:
    """Three seeds of one training, whose F1 are `f1` and .01 to either side of it."""
    where = {**WORLD, "fit": {"steps": steps, "batch_size": 500}}
    records = [
        example.recovery(
            where, {**trainer, "d_sae": d_sae}, seed, (f1, f1), 4, experiment=experiment
        )
        for seed in range(3)
    ]
    for i, record in enumerate(records):
        record.scores["detection/f1"] = f1 + 0.01 * (i - 1)
        record.series["along/scores"] = LOOKS
    return records


GROWN = [
    *trained(TOPK, 1000, 0.3),
    *trained(TOPK, 4000, 0.5),
    *trained(GBA, 1000, 0.8),
    *trained(GBA, 4000, 0.4),
    *trained(CEILING, 4000, 0.9),
    *trained({"name": "l1"}, 1000, 0.95),
    *trained(TOPK, 4000, 0.1, d_sae=32),
]


def test_methods_are_ranked_at_the_largest_length_of_each_world_and_width():
    narrow, square = panels(settings_of(GROWN))
    assert (narrow.width, square.width) == (0.25, 1.0)
    assert square.rows == 2_000_000
    assert [curve.last.method for curve in square.ranked] == ["topk", "gba"]
    assert [curve.last.method for curve in square.controls] == ["ceiling_linear"]


def test_a_method_falls_where_its_interval_at_the_end_lies_below_that_at_its_best():
    _, square = panels(settings_of(GROWN))
    by_method = {curve.last.method: curve for curve in square.curves}
    assert by_method["gba"].falls_after("detection/f1") == 500_000
    assert by_method["topk"].falls_after("detection/f1") is None
    level = settings_of([*trained(GBA, 1000, 0.405), *trained(GBA, 4000, 0.4)])
    assert panels(level)[0].curves[0].falls_after("detection/f1") is None


def test_the_way_of_a_training_is_the_mean_over_seeds_where_all_have_a_score():
    _, square = panels(settings_of(GROWN))
    assert square.curves[0].along("detection/f1") == ([100_000, 200_000], pytest.approx([0.1, 0.2]))
    assert square.curves[0].along("recovery/mcc") == ([100_000], pytest.approx([0.1]))
    assert square.curves[0].along("coverage/f1") == ([], [])


def test_the_table_ranks_by_f1_says_the_ceiling_and_shows_shorter_trainings_beside():
    table = growth_table.markdown(settings_of(GROWN))
    names = [line.strip("| ").partition(" |")[0] for line in table.splitlines()]
    assert "L1" not in names  # it was not trained as long
    assert names[-3:] == ["TopK", "GBA", "*true features, TopK's encoder*"]
    rows = rows_of(table)
    assert rows["TopK"][0] == ".500 ±.025"  # t of 2 degrees, 4.303 * .01 / sqrt(3)
    assert rows["GBA"][-2] == ".800 (0.5M)"
    assert rows["GBA"][-1].endswith(": 0.5M") and "F1" in rows["GBA"][-1]
    ceilings = [rows[name][0] for name in names if "latents a feature" in name]
    assert ceilings == [".250", "1.000"]


def test_without_records_the_table_says_how_to_make_them():
    assert "experiment=growth" in growth_table.markdown([])


def test_the_board_has_a_table_for_each_width_and_ranks_only_the_longest_trainings():
    narrow, square = make_tables(settings_of(GROWN))
    assert narrow.title.endswith("0.25 latents a feature")
    by_method = {row.line.setting.method: row for row in square.rows}
    assert len(square.rows) == 4  # one of each method
    assert by_method["topk"].rank == 1
    assert by_method["gba"].label == "GBA, falls after 0.5M rows"
    assert by_method["topk"].label == "TopK"
    assert by_method["l1"].rank is None and by_method["l1"].unranked == "0.5M of 2.0M rows"


def test_one_width_and_one_length_leave_the_board_as_it_is():
    (table,) = make_tables(settings_of(trained(TOPK, 1000, 0.3, experiment="other")))
    assert "latents a feature" not in table.title
    assert table.rows[0].rank == 1


def test_the_figure_has_a_page_for_each_width_and_an_open_mark_for_a_method_that_falls():
    drawing = figure.draw(settings_of(GROWN))
    assert drawing is not None
    (square,) = drawing.further_pages
    assert "1 latents per feature" in square.title
    f1 = square.figure.axes[0]
    open_marks = [line for line in f1.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_ydata()) for line in open_marks] == [[pytest.approx(0.4)]]
    assert figure.draw([]) is None


@pytest.mark.parametrize(
    ("rows", "text"),
    [(131_072, "131k"), (512_000, "0.5M"), (2_048_000, "2.0M"), (32_768_000, "33M")],
)
def test_rows_are_said_shortly(rows, text):
    assert rows_text(rows) == text


def grid(
    method: str,
    steps: int,
    scores: list[float | None],
    width: float = 1.0,
    label: str = "forest_1k",
) -> Record:
    """A grid over learning rates: each setting has one score as its MCC, FRR .9 and F1."""
    rates = [10.0**-i for i in range(2, 2 + len(scores))]
    columns = {name: scores for name in tuning.SCORES}
    where = {**WORLD, "fit": {"steps": steps, "batch_size": 500}}
    where["ask"] = {"settings": [{"optim.lr": rate} for rate in rates]}
    table = {"optim.lr": rates, "is_default": [True, *[False] * (len(scores) - 1)], **columns}
    return example.record(
        *("grid", where, {"name": method, "d_sae": int(128 * width)}, 100),
        scores={"recovery/mcc": 0.5},
        n={"recovery/mcc": 128},
        series={"grid/scores": table},
        label=label,
        experiment="growth_tuning",
    )


TUNED = [
    grid("topk", 1000, [0.3, 0.5, 0.4]),
    grid("topk", 1000, [0.1, 0.2, 0.6], width=0.25),  # means .2, .35, .5
    grid("topk", 4000, [0.9, 0.5, 0.4]),
    grid("gba", 1000, [0.3, 0.2, None]),  # the last one diverged
    grid("gba", 4000, [0.3, 0.2, 0.1]),
]


def test_the_best_mean_over_widths_is_chosen_for_each_length(tmp_path):
    text = tuning.files(TUNED)["growth_forest_1k.yaml"]
    table = OmegaConf.to_container(OmegaConf.create(text))
    assert table == {
        "gba": {"lr": {"by_rows": {500_000: 0.01, 2_000_000: 0.01}}},
        "topk": {"lr": {"by_rows": {500_000: 0.0001, 2_000_000: 0.01}}},
    }
    assert "3 trials of each method" in text.splitlines()[0]


def test_methods_with_different_numbers_of_trials_are_refused():
    with pytest.raises(UserError, match=r"same number of trials, got .*gba 3.*topk 2"):
        tuning.files([TUNED[3], grid("topk", 1000, [0.1, 0.2])])


@pytest.mark.parametrize(
    "record",
    [
        grid("topk", 1000, [0.1], label="../x"),
        grid("topk:\n  _target_", 1000, [0.1]),
    ],
    ids=["world", "method"],
)
def test_a_name_that_would_be_read_as_something_else_is_refused(record: Record):
    with pytest.raises(UserError, match="must have a plain name"):
        tuning.files([record])


def test_a_trainer_takes_the_choice_of_the_nearest_length_on_a_log_scale():
    cfg = composed("row=growth/forest_1k", "trainer=topk", "fit.steps=4000")
    OmegaConf.set_struct(cfg, False)
    for steps, rate in [(10, 1e-2), (1000, 1e-2), (1900, 1e-2), (2100, 1e-3), (64000, 1e-3)]:
        cfg.calibration = {"topk": {"lr": {"by_rows": {512_000: 1e-2, 2_048_000: 1e-3}}}}
        cfg.fit.steps = steps
        assert resolvers.calibrated("topk", "lr", 0.5, _root_=cfg) == rate
        assert instantiate(cfg.trainer, _convert_="object").optim.lr == rate
    cfg.calibration = {}
    cfg.lr = 3e-4
    assert instantiate(cfg.trainer, _convert_="object").optim.lr == 3e-4


@pytest.mark.parametrize("trainer", ["topk", "l1", "jumprelu_tanh", "gba", "peel"])
def test_every_method_is_tried_as_often(trainer):
    cfg = composed("row=growth_tuning/two_sparsity", f"trainer={trainer}", "width=1")
    method = instantiate(cfg.trainer, _convert_="object")
    assert len(instantiate(cfg.task, _convert_="object").methods(method)) == 6
