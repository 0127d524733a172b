"""The grid task: other settings of one method, trained and measured like the default."""

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_configs import composed, options

from gradsae.bench.cell import build
from gradsae.bench.experiment import due, run
from gradsae.errors import UserError
from gradsae.interfaces import Scores, Skipped
from gradsae.metrics.grid import SERIES, Grid, changed
from gradsae.optim import Optim
from gradsae.records.record import Record, load
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
    found = Grid(settings=SETTINGS).methods(default)
    assert settings_of(found) == [(4, 1e-3), (2, 1e-3), (4, 1e-2)]


def test_only_picks_settings_by_their_place():
    found = Grid(settings=SETTINGS, only=[2]).methods(TOPK)
    assert settings_of(found) == [(2, 1e-3), (4, 1e-2)]
    assert settings_of(Grid(settings=SETTINGS, only=[]).methods(TOPK)) == [(2, 1e-3)]


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
        ({"settings": []}, "has no grid; conf/grid holds one per trainer"),
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
    found = grid.table(grid.methods(TOPK), answers)
    assert found.series[SERIES] == {
        "k": [2, 4],
        "optim.lr": [1e-3, 1e-3],
        "is_default": [True, False],
        "recovery.mcc": [0.5, 0.75],
        "detection.f1": [0.3, None],
    }
    assert found.scores == answers[0].scores


def test_a_failed_setting_keeps_its_row_and_its_reason():
    grid = Grid(settings=SETTINGS, only=[1, 2])
    answers = [Skipped("diverged"), Scores(scores={"recovery/mcc": 0.5}), Skipped("diverged, too")]
    found = grid.table(grid.methods(TOPK), answers)
    assert found.scores == {}
    assert found.series[SERIES]["is_default"] == [True, False, False]
    assert found.series[SERIES]["recovery.mcc"] == [None, 0.5, None]
    assert found.skipped == {
        "grid/setting_0": "k=2, optim.lr=0.001: diverged",
        "grid/setting_2": "k=4, optim.lr=0.01: diverged, too",
    }


def test_a_row_of_a_grid_is_what_the_same_setting_scores_alone(tmp_path):
    grid = record_of(cell(tmp_path, "trainer=topk", "task.only=[4]"))
    assert grid.series[SERIES]["k"] == [8, 13]
    alone = cell(tmp_path / "alone", "trainer=topk", "task=recovery", "k=13", "lr=1e-2")
    scores = record_of(alone).scores
    assert grid.series[SERIES]["recovery.mcc"][1] == scores["recovery/mcc"]
    assert grid.cost["tokens"] == 2 * 3 * 32


RUNAWAY = "{k: 3, optim.lr: 1e30}"
"""Its first step already leaves the finite numbers."""


@pytest.mark.parametrize("lr", ["1e-2", "1e30"])
def test_a_setting_that_diverges_loses_nothing_of_the_others(tmp_path, lr: str):
    words = ("trainer=topk", "k=2", f"lr={lr}", "task.only=null")
    mixed = cell(tmp_path, *words, f"task.settings=[{RUNAWAY},{{k: 4, optim.lr: 1e-2}}]")
    record = record_of(mixed)
    alone = record_of(cell(tmp_path, "trainer=topk", "task=recovery", "k=4", "lr=1e-2"))
    table = record.series[SERIES]
    assert table["recovery.mcc"][1:] == [None, alone.scores["recovery/mcc"]]
    assert (
        "k=3, optim.lr=1e+30: training of topk diverged at step"
        in (record.skipped["grid/setting_1"])
    )
    default_fails = lr == "1e30"
    assert ("grid/setting_0" in record.skipped) == default_fails
    assert (table["recovery.mcc"][0] is None) == default_fails == (record.scores == {})
    assert (record.artifacts["checkpoint"] is None) == default_fails
    assert record.cost["tokens"] == (1 if default_fails else 2) * 3 * 32


def test_a_grid_without_a_setting_that_can_be_trained_says_so_once(tmp_path):
    words = ("trainer=topk", "k=2", "lr=1e30", "task.only=null", f"task.settings=[{RUNAWAY}]")
    with pytest.raises(UserError, match=r"none of its 2 settings .* topk diverged at step"):
        run(cell(tmp_path, *words))
    assert not list(tmp_path.rglob("*.json"))


def test_a_full_disk_is_not_a_failed_setting(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gradsae.sae.model.SAE.save", full)
    with pytest.raises(UserError, match="No space left"):
        run(cell(tmp_path, "trainer=topk", "task.only=[4]"))


def test_a_sweep_trains_every_setting_of_a_grid_beforehand(tmp_path):
    requests = due(cell(tmp_path, "trainer=topk", "lr=1e-2"))
    n_settings = len(composed("task=grid", "trainer=topk").task.settings)
    assert len(requests) == n_settings  # the default is one of them


def test_a_setting_that_the_trainer_refuses_is_an_error_before_the_work(tmp_path):
    with pytest.raises(UserError, match=r"k .with d_sae=12. must be .* got 13"):
        cell(tmp_path, "trainer=topk", "d_sae=12")


def test_a_trainer_without_a_grid_is_told_where_grids_are(tmp_path):
    with pytest.raises(UserError, match="conf/grid"):
        cell(tmp_path, "trainer=random")


@pytest.mark.parametrize("trainer", [name for name in options("grid") if "/" not in name])
def test_the_default_of_a_world_of_regret_is_in_its_grid(trainer: str):
    cfg = composed("row=regret_grid/sparse", f"trainer={trainer}")
    default = instantiate(cfg.trainer, _convert_="object")
    grid = instantiate(cfg.task, _convert_="object")
    assert len(grid.methods(default)) == len(grid.settings)
