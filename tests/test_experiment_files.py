"""Rows, fields and calibrations: what conf/ means beyond plain YAML."""

import sys

import pytest
from hydra import compose, initialize_config_dir

from benchmarks import run
from benchmarks.places import CONF
from gradsae.bench.cell import build
from gradsae.config.experiments import full_rows
from gradsae.errors import UserError
from gradsae.metrics.grid import Grid

OURS = [CONF / "experiment"]


def composed(*words: str, folder=None):
    search = [f"hydra.searchpath=[file://{folder}]"] if folder else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [*words, *search]
        return compose("config", overrides=overrides, return_hydra_config=True)


@pytest.fixture
def toy(tmp_path):
    """A folder of the user's own with an experiment of two rows."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "toy.yaml").write_text(
        """
all: {source: superposition, source.l0: 3, k: 3, trainer: l1}
rows:
  plain: {}
  other: {source: two_sparsity, source.l0: null, trainer: topk, trainer.tied: true, k: 5}
sweep: {seed: "0,1"}
"""
    )
    return tmp_path


def test_a_row_changes_the_words_of_all_rows_and_the_command_changes_both(toy):
    plain = composed("row=toy/plain", folder=toy)
    assert (plain.source.l0, plain.k, plain.hydra.runtime.choices.trainer) == (3, 3, "l1")
    other = composed("row=toy/other", "trainer.tied=false", "d_sae=64", folder=toy)
    assert other.hydra.runtime.choices.source == "two_sparsity"
    assert (other.k, other.d_sae, other.trainer.tied) == (5, 64, False)
    choice = composed("row=toy/other", "trainer=gba", folder=toy).hydra.runtime.choices.trainer
    assert choice == "gba"


def test_an_experiment_sweeps_over_its_rows_and_what_it_crosses(toy):
    cfg = composed("experiment=toy", folder=toy)
    assert dict(cfg.hydra.sweeper.params) == {"row": "toy/plain,toy/other", "seed": "0,1"}
    assert cfg.hydra.mode.name == "MULTIRUN"
    assert cfg.k == 3  # composed with the first row


def test_a_word_for_a_field_that_only_rows_have_is_taken():
    assert composed("experiment=lm_depths", "source.n_tokens=1000").source.n_tokens == 1000


def test_words_of_an_experiment_hold_on_the_rows_of_another():
    cfg = composed("experiment=known_features_seeds", "row=known_features/two_sparsity")
    assert (build(cfg).task.name, cfg.k) == ("consistency", 12)


@pytest.mark.parametrize(
    ("words", "full"),
    [
        ("experiment=known_features row=forest_1k", "row=known_features/forest_1k"),
        ("experiment=lm_depths row=gemma3_270m_9,smollm2_7 k=8",
         "row=lm_frontier/gemma3_270m_9,lm_frontier/smollm2_7"),
        ("experiment=masking row=pilot", "row=masking/pilot"),
        ("row=gba_toy/gba seed=1", "row=gba_toy/gba"),
    ],
)  # fmt: skip
def test_a_row_is_named_without_its_experiment(words, full):
    assert full in full_rows(words.split(), OURS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("experiment=known_features row=forest", "known_features has no such row; it has forest_"),
        ("experiment=noise row=x", "noise has no such row; it has world"),
        ("row=forest_1k", r"name its experiment, experiment=NAME or row=NAME/forest_1k"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_there_is_refused_with_those_that_are(words, said):
    with pytest.raises(UserError, match=said):
        full_rows(words.split(), OURS)


def test_the_command_refuses_an_unknown_row_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "experiment=noise", "row=x"])
    with pytest.raises(SystemExit) as stopped:
        run.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: row=x: noise has no such row; it has world\n"


def test_a_key_that_an_experiment_cannot_have_is_refused(toy):
    (toy / "experiment" / "toy.yaml").write_text("row: {a: {}}")
    with pytest.raises(UserError, match="unknown key 'row'; all, rows, sweep are known"):
        full_rows(["experiment=toy", "row=a"], [toy / "experiment"])


def test_fields_that_a_file_leaves_out_come_from_the_class():
    trainer = composed("trainer=topk").trainer
    assert (trainer.dead_after, trainer.optim.eps, trainer.rule) == (100_000, 1e-8, None)
    assert "truth" not in trainer  # handed over by code, never set
    assert composed("trainer=topk", "trainer.dead_after=5").trainer.dead_after == 5


def test_a_folder_of_the_users_own_is_filled_in_too(toy):
    (toy / "trainer").mkdir()
    target = "_target_: gradsae.trainers.topk.TopK\nd_sae: 8\nk: 2\noptim: {lr: 0.1}\n"
    (toy / "trainer" / "mine.yaml").write_text(target)
    cfg = composed("trainer=mine", folder=toy)
    assert (cfg.trainer.aux_coefficient, cfg.trainer.optim.decay) == (1 / 32, "none")
    assert build(cfg).method.name == "topk"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trainer.dead_aftr=5", "TopK has no field 'dead_aftr'; did you mean dead_after"),
        ("trainer.optim.lrr=5", "trainer.optim.lrr: Optim has no field 'lrr'; did you mean lr"),
        ("source.zebra=5", "Superposition has no field 'zebra'; it has n_features, width"),
        ("trainer.truth=5", "TopK has no field 'truth'"),
    ],
)  # fmt: skip
def test_a_misspelt_field_is_refused_with_the_nearest_one(word, said):
    with pytest.raises(UserError, match=said):
        build(composed(word, "tracking=none"))


def test_a_calibrated_value_depends_on_place_and_k_and_gives_way_to_the_users():
    place = ["calibration=smollm2", "trainer=l1", "k=16"]
    assert composed(*place).trainer.l1 == 5.9
    assert composed(*place, "trainer.l1=1.5").trainer.l1 == 1.5
    assert composed("trainer=l1", "k=16").trainer.l1 == 5.0  # nothing calibrated: the paper's
    assert composed("calibration=gemma3_270m", "trainer=l1", "k=16").trainer.centre is True


def test_a_k_that_was_not_calibrated_is_refused_with_those_that_were():
    words = ["calibration=smollm2", "trainer=l1", "k=20", "tracking=none"]
    said = "trainer.l1: not known for k=20, only for 8, 16, 32, 64, 128; set trainer.l1"
    with pytest.raises(UserError, match=said):
        build(composed(*words))
    assert build(composed(*words, "trainer.l1=2.0")).method.name == "l1"


def test_the_settings_chosen_for_regret_are_data_of_results():
    cfg = composed("experiment=regret", "row=regret_grid/dense", "trainer=l1", "tracking=none")
    grid = build(cfg).task
    assert isinstance(grid, Grid) and grid.only == [2]
    with pytest.raises(UserError, match="no choice for 'mine'; it has forest"):
        build(composed("experiment=regret", "label=mine", "tracking=none"))
