"""The grid task: other settings of one method, trained and measured like the default."""

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_configs import composed, options

from gradsae.cell import build
from gradsae.errors import UserError
from gradsae.experiment import due, run
from gradsae.interfaces import Scores
from gradsae.metrics.grid import SERIES, Grid, changed
from gradsae.optim import Optim
from gradsae.records import Record, load
from gradsae.trainers.topk import TopK

TOPK = TopK(d_sae=24, k=2, optim=Optim(lr=1e-3))
SETTINGS = [{"k": 2, "optim.lr": 1e-3}, {"k": 4, "optim.lr": 1e-3}, {"k": 4, "optim.lr": 1e-2}]
SMALL = (
    *("source.n_features=20", "source.width=10", "source.l0=2", "d_sae=48", "fit.steps=3"),
    *("fit.batch_size=32", "fit.init_rows=64", "metric=[recovery]", "metric.recovery.n_rows=64"),
    *("tracking=none", "device=cpu"),
)


def cell(tmp_path, *overrides: str):
    cfg = composed("task=grid", f"results={tmp_path}", *SMALL, *overrides)
    OmegaConf.set_struct(cfg, False)
    return build(cfg, "example")


def record_of(built) -> Record:
    path = run(built).record
    assert path is not None
    return load(path)


def settings_of(trainers) -> list[tuple[int, float]]:
    return [(trainer.k, trainer.optim.lr) for trainer in trainers]


def test_the_default_comes_first_and_each_setting_once():
    default = changed(TOPK, {"k": 4})
    found = Grid(settings=SETTINGS).trainers(default)
    assert settings_of(found) == [(4, 1e-3), (2, 1e-3), (4, 1e-2)]


def test_only_picks_settings_by_their_place():
    found = Grid(settings=SETTINGS, only=[2]).trainers(TOPK)
    assert settings_of(found) == [(2, 1e-3), (4, 1e-2)]
    assert settings_of(Grid(settings=SETTINGS, only=[]).trainers(TOPK)) == [(2, 1e-3)]


def test_a_field_inside_is_changed_and_its_neighbours_are_kept():
    found = changed(TopK(d_sae=24, k=2, optim=Optim(lr=1e-3, clip=0.5)), {"optim.lr": 3e-3})
    assert (found.optim.lr, found.optim.clip, found.k) == (3e-3, 0.5, 2)


@pytest.mark.parametrize(
    ("field", "message"), [("kk", "TopK has no field 'kk'"), ("optim.l", "Optim has no field 'l'")]
)
def test_a_field_that_is_not_there_is_named(field: str, message: str):
    with pytest.raises(ValueError, match=message):
        changed(TOPK, {field: 1})


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"settings": []}, "must all set the same fields"),
        ({"settings": [{"k": 2}, {"k": 2, "optim.lr": 1e-3}]}, "must all set the same fields"),
        ({"settings": SETTINGS, "only": [3]}, "from 0 to 2, got 3"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(about, message: str):
    with pytest.raises(ValueError, match=message):
        Grid(**about)


def test_the_table_has_a_row_per_setting_and_a_gap_where_a_score_is_absent():
    grid = Grid(settings=SETTINGS, only=[1])
    answers = [
        Scores(scores={"recovery/mcc": 0.5, "recovery/mcc/chance": 0.1, "detection/f1": 0.3}),
        Scores(scores={"recovery/mcc": 0.75}),
    ]
    found = grid.table(grid.trainers(TOPK), answers)
    assert found.series[SERIES] == {
        "k": [2, 4],
        "optim.lr": [1e-3, 1e-3],
        "is_default": [True, False],
        "recovery.mcc": [0.5, 0.75],
        "detection.f1": [0.3, None],
    }
    assert found.scores == answers[0].scores


def test_a_row_of_a_grid_is_what_the_same_setting_scores_alone(tmp_path):
    grid = record_of(cell(tmp_path, "trainer=topk", "grid.only=[4]"))
    assert grid.series[SERIES]["k"] == [8, 13]
    alone = cell(tmp_path / "alone", "trainer=topk", "task=recovery", "k=13", "lr=1e-2")
    scores = record_of(alone).scores
    assert grid.series[SERIES]["recovery.mcc"][1] == scores["recovery/mcc"]
    assert grid.cost["tokens"] == 2 * 3 * 32


def test_a_sweep_trains_every_setting_of_a_grid_beforehand(tmp_path):
    wanted = due(cell(tmp_path, "trainer=topk", "lr=1e-2"))
    n_settings = len(composed("trainer=topk").grid.settings)
    assert len(wanted) == n_settings  # the default is one of them


def test_a_setting_that_the_trainer_refuses_is_an_error_before_the_work(tmp_path):
    with pytest.raises(UserError, match=r"k .with d_sae=12. must be .* got 13"):
        cell(tmp_path, "trainer=topk", "d_sae=12")


def test_a_trainer_without_a_grid_is_told_where_grids_are(tmp_path):
    with pytest.raises(UserError, match="conf/grid"):
        cell(tmp_path, "trainer=random")


@pytest.mark.parametrize("trainer", options("grid"))
def test_the_default_of_a_regret_part_is_in_its_grid(trainer: str):
    cfg = composed("part=regret/sparse", f"trainer={trainer}")
    default = instantiate(cfg.trainer, _convert_="object")
    grid = instantiate(cfg.grid, _convert_="object")
    assert len(grid.trainers(default)) == len(grid.settings)
