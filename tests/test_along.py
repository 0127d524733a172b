"""Scores along one training: looking changes nothing, and what is seen is what is read out."""

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from test_configs import composed
from test_sharing import (
    SETTINGS,
    KilledError,
    assert_same,
    hear_nothing,
    kill_at,
    request,
)
from test_trainers import TRAINERS
from toy import ToyStream

from gradsae.bench.cell import build
from gradsae.bench.experiment import run
from gradsae.errors import UserError
from gradsae.interfaces import Scores
from gradsae.metrics.along import Along
from gradsae.metrics.recovery import Recovery
from gradsae.optim import Optim
from gradsae.records.record import load
from gradsae.sae.model import load as load_sae
from gradsae.seeds import make_generator
from gradsae.trainers.topk import TopK
from gradsae.training import checkpoints, snapshots
from gradsae.training.fit import FitSettings, Training, fit
from gradsae.training.sharing import Shared
from gradsae.training.snapshots import Snapshots

CPU = torch.device("cpu")
PLAIN = TopK(d_sae=24, k=2, optim=Optim(lr=1e-3))
"""Nothing of it depends on the length of its training."""
SMALL = (
    *("source.n_features=20", "source.width=10", "source.l0=2", "d_sae=24", "fit.steps=12"),
    *("fit.batch_size=32", "fit.init_rows=64", "metric=[recovery,reconstruction]", "device=cpu"),
    *("metric.recovery.n_rows=64", "metric.reconstruction.n_rows=64", "tracking=none"),
)
LOOKS = ("task=recovery/along", "task.along.first=90", "task.along.n_rows=64")


def cell(tmp_path, *words: str):
    cfg = composed(f"results={tmp_path}", *SMALL, *(words or LOOKS))
    OmegaConf.set_struct(cfg, False)
    return build(cfg, "example")


def record_of(built):
    path = run(built).record
    assert path is not None
    return load(path)


def test_every_trainer_ends_with_the_same_weights_whether_it_is_looked_at_or_not(tmp_path):
    short = replace(SETTINGS, steps=12)
    looked_at = [request(tmp_path / "a", t, settings=short, along=(3, 10)) for t in TRAINERS]
    plain = [request(tmp_path / "b", trainer, settings=short) for trainer in TRAINERS]
    assert [asked.id() for asked in looked_at] == [asked.id() for asked in plain]
    for group in (looked_at, plain):
        checkpoints.train(group, hear_nothing)
    for asked, other in zip(looked_at, plain, strict=True):
        assert_same(load_sae(asked.folder()), load_sae(other.folder()))
        assert asked.is_done() and not replace(other, along=(3,)).is_done()


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda trainer: trainer.name)
def test_what_is_kept_on_the_way_encodes_as_the_sae_did_at_that_step(trainer, tmp_path):
    sae = trainer.build(ToyStream(seed=1000).next(), make_generator(0, "init"))
    kept = Snapshots(folder=tmp_path, id="x", steps=(7,))
    training = Training(trainer, sae, snapshots=kept)
    x = ToyStream(seed=5).next()
    then = []

    def log(i: int, step: int, parts: dict[str, float]) -> None:
        if step == 6:  # before the seventh step's SAE is kept
            then.append(sae.codes(x).to_dense())

    fit([training], ToyStream(), FitSettings(steps=12, batch_size=256, log_every=1), log=log)
    found = kept.load(7, CPU, trainer.blank)
    assert torch.equal(found.codes(x).to_dense(), then[0])
    assert not torch.equal(sae.codes(x).to_dense(), then[0])


def test_the_sae_on_the_way_is_that_of_a_shorter_training_where_no_schedule_knows_the_length(
    tmp_path,
):
    asked = request(tmp_path, PLAIN, along=(9,))
    checkpoints.get(asked, log=hear_nothing)
    short = request(tmp_path / "short", PLAIN, settings=replace(SETTINGS, steps=9))
    end = checkpoints.get(short, log=hear_nothing).sae
    assert_same(asked.snapshots().load(9, CPU, PLAIN.blank), end)


@pytest.mark.parametrize("lost", [(), (6,)])
def test_after_a_kill_the_same_is_kept_also_where_something_of_it_was_lost(lost, tmp_path):
    trainer, along = TRAINERS[-1], (6, 12, 20)
    asked = request(tmp_path / "killed", trainer, along=along)
    with pytest.raises(KilledError):
        checkpoints.train([asked], kill_at(15))
    for step in lost:
        (asked.snapshots().folder / str(step) / "sae.json").rename(tmp_path / "elsewhere")
        (asked.snapshots().folder / str(step) / "sae.safetensors").unlink()
        (asked.snapshots().folder / str(step)).rmdir()
    started = []
    checkpoints.train([asked], lambda i, step, parts: started.append(step))
    assert started[0] == (0 if lost else 10)
    whole = request(tmp_path / "whole", trainer, along=along)
    checkpoints.train([whole], hear_nothing)
    assert_same(load_sae(asked.folder()), load_sae(whole.folder()))
    for step in along:
        pair = [each.snapshots().load(step, CPU, trainer.blank) for each in (asked, whole)]
        assert_same(*pair)


def test_a_finished_sae_without_those_on_the_way_is_trained_anew_to_the_same_weights(tmp_path):
    first = checkpoints.get(request(tmp_path, PLAIN), log=hear_nothing)
    asked = request(tmp_path, PLAIN, along=(4,))
    again = checkpoints.get(asked, log=hear_nothing)
    assert not again.found
    assert_same(first.sae, again.sae)
    assert checkpoints.get(asked, log=hear_nothing).found


def test_two_cells_of_one_sae_share_a_training_that_keeps_what_either_looks_at(tmp_path):
    cells = [
        [request(tmp_path, PLAIN, along=(4,))],
        [request(tmp_path, PLAIN, along=(8,)), request(tmp_path, TRAINERS[0])],
    ]
    assert Shared(cells).train_for(0)
    assert all(asked.is_done() for each in cells for asked in each)


def test_looks_are_at_a_log_grid_below_the_end():
    assert Along(first=100, factor=2).rows(800) == [100, 200, 400]
    assert Along(first=100, factor=10**0.5).rows(1001) == [100, 316, 1000]
    assert Along(first=100).rows(100) == []


def test_a_record_holds_a_row_for_each_look_and_the_last_is_the_finished_sae(tmp_path):
    record = record_of(cell(tmp_path))
    table = record.series["along/scores"]
    assert table["rows"] == [96, 192, 352, 384]  # after 3, 6, 11 and 12 steps of 32 rows
    for name in ("recovery/mcc", "recovery/mcc/matched", "reconstruction/fvu", "sparsity/l0"):
        column = table[name.replace("/", ".")]
        assert len(column) == 4 and column[-1] == record.scores[name]
    assert len(set(table["reconstruction.fvu"])) == 4


def test_a_record_after_a_kill_is_that_of_a_run_without_one(tmp_path, monkeypatch):
    real, kept = Snapshots.keep, []

    def keep(snapshots, sae, step):
        kept.append(step)
        if kept == [3, 6]:
            raise KilledError
        real(snapshots, sae, step)

    monkeypatch.setattr(Snapshots, "keep", keep)
    words = (*LOOKS, "fit.save_every=4")
    with pytest.raises(KilledError):
        run(cell(tmp_path / "killed", *words))
    killed, whole = (record_of(cell(tmp_path / name, *words)) for name in ("killed", "whole"))
    assert kept == [3, 6, 6, 11, 3, 6, 11]  # the killed one goes on from step 4
    assert killed.id == whole.id
    assert killed.scores == whole.scores
    assert killed.series == whole.series


def test_a_look_scores_the_sae_of_that_step(tmp_path):
    record = record_of(cell(tmp_path))
    table = record.series["along/scores"]
    asked = cell(tmp_path).requests()[0]
    sae = asked.snapshots().load(3, CPU, asked.method.blank)
    answer = Recovery(n_rows=64).measure(sae, asked.source, 0)
    assert isinstance(answer, Scores)
    assert table["recovery.mcc"][0] == answer.scores["recovery/mcc"]


def test_a_control_is_looked_at_once(tmp_path):
    record = record_of(cell(tmp_path, *LOOKS, "trainer=untrained"))
    assert record.series["along/scores"]["rows"] == [384]


def test_only_a_cell_that_looks_has_another_record(tmp_path):
    looks, plain = cell(tmp_path), cell(tmp_path, "task=recovery")
    assert looks.record_path() != plain.record_path()
    assert "along" not in plain.config()["ask"]
    assert [asked.id() for asked in looks.requests()] == [asked.id() for asked in plain.requests()]


def test_snapshots_over_the_stated_size_go_when_the_record_is_written(tmp_path, monkeypatch):
    built = cell(tmp_path)
    monkeypatch.setattr(snapshots, "KEPT_BYTES", 0)
    record_of(built)
    assert not built.requests()[0].snapshots().folder.exists()
    monkeypatch.undo()
    record_of(cell(tmp_path, *LOOKS, "force=true"))
    assert cell(tmp_path).requests()[0].is_done()


def test_a_damaged_snapshot_says_what_to_delete(tmp_path):
    asked = request(tmp_path, PLAIN, along=(4,))
    checkpoints.get(asked, log=hear_nothing)
    path = asked.snapshots().folder / "4" / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"along/\w+/4.*; delete .*along/\w+ to retrain"):
        asked.snapshots().load(4, CPU, PLAIN.blank)


def test_looks_that_are_not_chosen_are_refused_with_the_word_that_chooses_them(tmp_path):
    said = "choose task=recovery/along|Type-check error"  # by the type checks that tests put on
    with pytest.raises(UserError, match=said):
        cell(tmp_path, "task=recovery", "task.along.first=90")


@pytest.mark.parametrize(
    ("word", "said"),
    [("first=0", "first"), ("factor=1", "factor"), ("n_rows=0", "n_rows")],
)
def test_a_grid_of_looks_that_cannot_be_is_refused(word, said, tmp_path):
    with pytest.raises(UserError, match=rf"along\.{said} must be"):
        cell(tmp_path, *LOOKS, f"task.along.{word}")
