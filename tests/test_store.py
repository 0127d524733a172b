"""The activation store: what is kept, that a kill costs nothing, that damage is named."""

import errno
import json
import shutil
import threading
from collections import namedtuple
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks.places import ROOT
from gradsae.errors import UserError
from gradsae.lm.model import LM, load
from gradsae.lm.sites import Site
from gradsae.lm.spec import LanguageModel
from gradsae.seeds import make_generator
from gradsae.sources import harvest
from gradsae.sources.corpora import Split
from gradsae.sources.harvest import Harvest
from gradsae.sources.store import Recipe, Store, is_complete, open_store

POS = 16
N_TRAIN, N_EVAL = 12, 5
SITE = Site("resid_post", 2)
RECIPE = Recipe(
    weights_id="tiny",
    model_dtype="float32",
    paths=[],
    corpus_id="random bytes",
    site=str(SITE),
    context_length=POS,
    n_tokens=N_TRAIN * POS,
    n_eval_tokens=N_EVAL * POS,
    dtype="float32",
    drop_special=True,
    outlier_factor=1.2,
    seed=0,
)


@pytest.fixture(scope="module")
def lm() -> LM:
    spec: dict[str, Any] = yaml.safe_load((ROOT / "conf/model/tiny_random.yaml").read_text())
    del spec["_target_"]
    return load(LanguageModel(**spec))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(harvest, "SHARD_TOKENS", 4 * POS)


def windows(n: int, purpose: str) -> torch.Tensor:
    return torch.randint(1, 200, (n, POS), generator=make_generator(0, purpose))


WINDOWS: dict[Split, torch.Tensor] = {
    "train": windows(N_TRAIN, "train windows"),
    "eval": windows(N_EVAL, "eval windows"),
}


def job(lm: LM, folder: Path, **changes: Any) -> Harvest:
    return Harvest(
        folder=folder,
        recipe=replace(RECIPE, **changes),
        lm=lm,
        site=SITE,
        windows=WINDOWS,
        batch_windows=2,
    )


def harvested(lm: LM, folder: Path, **changes: Any) -> Store:
    job(lm, folder, **changes).run()
    return open_store(folder)


def every_row(rows) -> torch.Tensor:
    return rows.gather(torch.arange(len(rows)))


def as_set(x: torch.Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


def read(lm: LM, split: Split) -> torch.Tensor:
    """The site's activations [window, pos, d_in] in batches of two, as the harvest reads them."""
    return torch.cat([lm.read(SITE, batch) for batch in WINDOWS[split].split(2)])


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".lock"}


class KilledError(Exception):
    pass


def kill_after(monkeypatch, n_reads: int) -> list[int]:
    """Let `LM.read` fail from call `n_reads` on; return a list that grows with each call."""
    calls: list[int] = []
    plain = LM.read

    def counted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > n_reads:
            raise KilledError
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(LM, "read", counted)
    return calls


def test_training_rows_are_the_models_activations_without_position_0_and_outliers(lm, tmp_path):
    store = harvested(lm, tmp_path)
    acts = read(lm, "train")[:, 1:].flatten(0, 1)
    norms = acts.norm(dim=1)
    median = np.sort(norms.numpy())[(len(norms) - 1) // 2]  # torch's: the lower of two
    assert store.meta["median_norm"] == pytest.approx(median)
    expected = acts[norms <= 1.2 * store.meta["median_norm"]]
    assert 0 < len(expected) < len(acts)
    assert as_set(every_row(store.train)) == as_set(expected)
    assert store.meta["train"]["counts"] == {
        "n_tokens": N_TRAIN * POS,
        "n_rows": len(expected),
        "n_special": N_TRAIN,
        "n_outliers": len(acts) - len(expected),
    }


def test_evaluation_rows_keep_outliers_and_flag_them(lm, tmp_path):
    store = harvested(lm, tmp_path)
    acts = read(lm, "eval")[:, 1:].flatten(0, 1)
    rows = every_row(store.eval)
    assert as_set(rows) == as_set(acts)
    assert torch.equal(store.eval_outlier, rows.norm(dim=1) > 1.2 * store.meta["median_norm"])
    assert store.eval_outlier.any()
    assert store.meta["eval"]["counts"]["n_outliers"] == int(store.eval_outlier.sum())


def test_special_tokens_are_dropped_wherever_they_stand(lm, tmp_path):
    special = lm.tokenizer.all_special_ids[0]
    seen = WINDOWS["train"].clone()
    seen[3, 7] = special
    Harvest(**{**vars(job(lm, tmp_path)), "windows": {**WINDOWS, "train": seen}}).run()
    assert open_store(tmp_path).meta["train"]["counts"]["n_special"] == N_TRAIN + 1


def test_filters_can_be_switched_off(lm, tmp_path):
    store = harvested(lm, tmp_path, drop_special=False, outlier_factor=None)
    assert as_set(every_row(store.train)) == as_set(read(lm, "train").flatten(0, 1))
    assert store.meta["train"]["counts"]["n_outliers"] == 0
    assert store.outlier_norm == float("inf")


def test_statistics_come_from_the_stored_training_rows_alone(lm, tmp_path):
    store = harvested(lm, tmp_path)
    rows = every_row(store.train).numpy().astype(np.float64)
    np.testing.assert_allclose(store.meta["mean"], rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(store.meta["mean_square_norm"], (rows**2).sum(1).mean(), rtol=1e-12)
    assert store.d_in == 32


def test_rows_of_different_windows_are_mixed(lm, tmp_path):
    store = harvested(lm, tmp_path, outlier_factor=None)
    acts = read(lm, "train")
    origin = {row.numpy().tobytes(): i for i, window in enumerate(acts) for row in window}
    windows_of = [origin[row.numpy().tobytes()] for row in every_row(store.train)]
    same = sum(a == b for a, b in pairwise(windows_of))
    assert same < 0.5 * len(windows_of)  # unshuffled: 14 of 15; four windows a shard: a quarter


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_come_back_in_float32_as_they_were_stored(lm, tmp_path, dtype):
    store = harvested(lm, tmp_path, dtype=dtype, outlier_factor=None)
    acts = read(lm, "train")[:, 1:].flatten(0, 1)
    assert as_set(every_row(store.train)) == as_set(acts.to(getattr(torch, dtype)).float())


def test_gather_returns_the_rows_asked_for_in_order(lm, tmp_path):
    rows = harvested(lm, tmp_path).train
    assert len({p.name for p in tmp_path.glob("train-*.safetensors")}) == 3
    index = torch.tensor([len(rows) - 1, 0, 70, 3, 70])
    assert torch.equal(rows.gather(index), every_row(rows)[index])


@pytest.mark.parametrize("n_reads", [0, 1, 2, 4, 5, 8])
def test_a_killed_harvest_goes_on_and_ends_with_the_same_bytes(lm, tmp_path, monkeypatch, n_reads):
    monkeypatch.setattr(harvest, "CALIBRATION_WINDOWS", 4)  # the first of three shards
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    harvested(lm, whole)
    with monkeypatch.context() as patch:
        kill_after(patch, n_reads)
        with pytest.raises(KilledError):
            job(lm, parted).run()
    assert not is_complete(parted)
    finished = set(contents(parted))
    assert not any(name.endswith(".partial") for name in finished)
    with monkeypatch.context() as patch:
        calls = kill_after(patch, 1000)
        job(lm, parted).run()
    assert contents(parted) == contents(whole)
    n_finished = sum(name.endswith(".safetensors") for name in finished)
    assert (
        len(calls) == 9 - 2 * n_finished
    )  # six of training, calibration among them; three of eval


@pytest.mark.parametrize("batch_windows", [1, 3, 8])
def test_reading_the_calibration_batches_once_changes_no_byte(
    lm, tmp_path, monkeypatch, batch_windows
):
    """The other store finds the median on disk, so it reads every batch for its shard."""
    monkeypatch.setattr(harvest, "CALIBRATION_WINDOWS", 5)  # ends inside a shard and a batch
    once, twice = tmp_path / "once", tmp_path / "twice"
    Harvest(**{**vars(job(lm, once)), "batch_windows": batch_windows}).run()
    twice.mkdir()
    shutil.copy(once / "calibration.json", twice)
    Harvest(**{**vars(job(lm, twice)), "batch_windows": batch_windows}).run()
    assert contents(once) == contents(twice)


def test_a_shard_is_written_while_the_next_is_read(lm, tmp_path, monkeypatch):
    """The first write waits for the last read of the second shard: in turn they would never end."""
    monkeypatch.setattr(harvest, "CALIBRATION_WINDOWS", 4)
    read, plain_read, plain_save = threading.Event(), LM.read, Harvest._save
    calls: list[int] = []

    def counted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            read.set()
        return plain_read(self, *args, **kwargs)

    def waiting(self, name, kept):
        assert read.wait(timeout=10), "nothing was read during the write"
        return plain_save(self, name, kept)

    monkeypatch.setattr(LM, "read", counted)
    monkeypatch.setattr(Harvest, "_save", waiting)
    job(lm, tmp_path).run()
    assert is_complete(tmp_path)


def test_a_complete_store_is_not_read_again(lm, tmp_path, monkeypatch):
    harvested(lm, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kill_after(monkeypatch, 0)
    job(lm, tmp_path).run()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_left_over_partial_file_is_removed(lm, tmp_path):
    (tmp_path / "train-00001.partial").write_bytes(b"half")
    harvested(lm, tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [truncate, flip_a_byte])
def test_a_damaged_shard_is_named_and_harvested_again_once_deleted(lm, tmp_path, damage):
    harvested(lm, tmp_path)
    before = contents(tmp_path)
    shard = tmp_path / "train-00001.safetensors"
    damage(shard)
    with pytest.raises(UserError, match=r"train-00001\.safetensors.*Delete it and run again"):
        open_store(tmp_path)
    shard.unlink()
    assert not is_complete(tmp_path)
    harvested(lm, tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", [truncate, flip_a_byte])
def test_a_damaged_shard_stops_a_resumed_harvest(lm, tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patch:
        kill_after(patch, 7)
        with pytest.raises(KilledError):
            job(lm, tmp_path).run()
    damage(tmp_path / "train-00000.safetensors")
    with pytest.raises(UserError, match=r"train-00000\.safetensors"):
        job(lm, tmp_path).run()


@pytest.mark.parametrize("name", ["meta.json", "train-00000.json"])
@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_note_is_named(lm, tmp_path, name, text):
    harvested(lm, tmp_path)
    (tmp_path / "train-00001.safetensors").unlink()
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=name):
        job(lm, tmp_path).run()


def test_a_full_disk_is_said_and_finished_shards_stay(lm, tmp_path, monkeypatch):
    plain = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name.startswith("train-00002"):
            plain(self, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match=r"No space left on device.*finished is lost"):
            job(lm, tmp_path).run()
    assert not list(tmp_path.glob("*.partial"))
    assert len(list(tmp_path.glob("train-*.safetensors"))) == 2
    whole = tmp_path / "whole"
    harvested(lm, whole)
    job(lm, tmp_path).run()
    shutil.move(whole, tmp_path.parent / "compared")
    assert contents(tmp_path) == contents(tmp_path.parent / "compared")


def test_too_little_room_is_said_before_the_work(lm, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
    kill_after(monkeypatch, 0)
    with pytest.raises(UserError, match=r"need 0.0348 MB, but .* has 0.001 MB free"):
        job(lm, tmp_path).run()


def test_a_folder_that_cannot_be_made_is_said(lm, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write to .*taken"):
        job(lm, tmp_path / "taken").run()


def test_activations_that_are_not_finite_are_refused(lm, tmp_path, monkeypatch):
    plain = LM.read
    monkeypatch.setattr(LM, "read", lambda *args: plain(*args) / 0)
    with pytest.raises(UserError, match=r"resid_post\.2 that are not finite"):
        job(lm, tmp_path).run()


def test_a_filter_that_leaves_nothing_is_said(lm, tmp_path):
    with pytest.raises(UserError, match="no train rows are left"):
        job(lm, tmp_path, outlier_factor=1e-6).run()


def test_the_id_changes_with_every_field_of_the_recipe():
    changes: dict[str, Any] = {
        "weights_id": "other",
        "model_dtype": "bfloat16",
        "paths": ["model.layers"],
        "corpus_id": "other",
        "site": "mlp_out.2",
        "context_length": 32,
        "n_tokens": 100,
        "n_eval_tokens": 100,
        "dtype": "bfloat16",
        "drop_special": False,
        "outlier_factor": None,
        "seed": 1,
    }
    assert changes.keys() == {field.name for field in fields(Recipe)}
    ids = {replace(RECIPE, **{field: value}).id() for field, value in changes.items()}
    assert len(ids | {RECIPE.id()}) == len(changes) + 1


def test_the_folder_says_what_it_holds(lm, tmp_path):
    harvested(lm, tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert meta["id"] == RECIPE.id()
    assert meta["recipe"] == RECIPE.contents()
