"""The doctor names every damaged file, leaves sound ones alone, and mends on request."""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import example_records as example
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_saved_files import SAVED, TRAINERS, SavedStream
from toy import no_log

from benchmarks.doctor import doctor, parse
from gradsae.errors import UserError
from gradsae.interfaces import Trainer
from gradsae.records.record import load, save
from gradsae.sae.model import make_sae
from gradsae.seeds import make_generator
from gradsae.sources import store as stores
from gradsae.storage.cache import cached_folder
from gradsae.storage.lease import Lease
from gradsae.storage.process import machine, new_tag
from gradsae.storage.sealed import sealed
from gradsae.training.fit import FitSettings, Training, fit

STEPS = FitSettings(steps=6, batch_size=64, save_every=3)


class Folders(NamedTuple):
    results: Path
    cache: Path


def training(folder: Path, name: str = "topk") -> Training:
    trainer: Trainer = TRAINERS[name]
    sae = trainer.build(SavedStream().batches[0], make_generator(1, "start"))
    return Training(trainer, sae, folder)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """A checkpoint, a training state, a store in this version's form, and a cached folder."""
    results, cache = tmp_path / "results", tmp_path / "cache"
    make_sae(d_in=4, d_sae=6, gate="topk", k=2).save(results / "checkpoints/a", {"id": "a"})
    fit([training(results / "training/b")], SavedStream(), STEPS, log=no_log)
    rewritten(SAVED / "store", results / "activations/c")
    cached_folder(cache / "models/d", lambda work: {"n": (work / "x.txt").write_text("text")})
    return Folders(results, cache)


def rewritten(store: Path, target: Path) -> None:
    """Copy a store of an earlier version, with checksums in its notes."""
    shutil.copytree(store, target)
    for note in target.glob("*.json"):
        note.write_text(json.dumps(sealed(json.loads(note.read_text()))))


def checked(folders: Folders, capsys, *words: str) -> list[str]:
    """Return the lines that the command prints."""
    doctor(parse([str(folders.results), "--cache", str(folders.cache), *words]))
    return capsys.readouterr().out.splitlines()


def flip(path: Path, at: float, bit: int = 3) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)


def files_of(folders: Folders) -> list[Path]:
    held = sorted(path for folder in folders for path in folder.rglob("*.*") if path.is_file())
    return [path for path in held if path.stat().st_size]


def test_a_sound_folder_is_in_order_but_for_what_no_record_names(folders, capsys):
    lines = checked(folders, capsys)
    assert [line.partition(":")[0] for line in lines[:-1]] == ["reclaimable", "reclaimable"]
    assert "2 reclaimable" in lines[-1]


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_any_file_is_found_named_and_mended(folders, capsys, at):
    for path in files_of(folders):
        content = path.read_bytes()
        flip(path, at)
        (line,) = [line for line in checked(folders, capsys) if line.startswith("damaged")]
        assert any(each in line for each in (path.name, path.stem, path.parent.name)), path
        path.write_bytes(content)
    for path in files_of(folders):
        if path.exists():
            flip(path, at)
    assert any("mended" in line for line in checked(folders, capsys, "--fix"))
    assert not any("damaged" in line for line in checked(folders, capsys))


def test_saes_on_their_way_stay_while_a_training_is_there_unless_one_is_damaged(folders, capsys):
    for name in ("b", "x"):  # of b there is a training
        sae = make_sae(d_in=4, d_sae=6, gate="topk", k=2)
        sae.save(folders.results / f"along/{name}/3", {"id": name, "step": 3})
    ways = [line for line in checked(folders, capsys) if "along/" in line]
    assert len(ways) == 1 and ways[0].startswith(f"reclaimable: {folders.results}/along/x")
    for file in ("sae.json", "sae.safetensors"):
        path = folders.results / "along/b/3" / file
        content = path.read_bytes()
        flip(path, 0.9)
        assert any(f"damaged: {path.parent}" in line for line in checked(folders, capsys))
        path.write_bytes(content)
    flip(folders.results / "along/b/3/sae.json", 0.5)
    checked(folders, capsys, "--fix")
    assert not (folders.results / "along/b").exists() and (folders.results / "along/x").exists()


def test_a_damaged_record_is_put_aside_and_not_deleted(folders, capsys):
    record = folders.results / "records/x.json"
    record.parent.mkdir()
    record.write_text("{")
    assert any("damaged record" in line for line in checked(folders, capsys))
    checked(folders, capsys, "--fix")
    assert record.with_name("x.json.damaged").read_text() == "{"


def test_a_changed_digit_of_a_record_is_found_and_one_of_an_earlier_version_has_no_checksum(
    folders, capsys
):
    good = save(
        example.recovery(example.SUPERPOSITION, {"name": "topk"}, 0, (0.9, 0.5), 20),
        folders.results / "records",
    )
    assert not any(good.name in line for line in checked(folders, capsys))
    old = save(replace(load(good), schema_version=2), folders.results / "records" / "old")
    good.write_text(good.read_text().replace("0.9", "0.8", 1))
    damaged, earlier = (line for line in checked(folders, capsys) if good.name in line)
    assert damaged.startswith(f"damaged: {good}") and "differs from its checksum" in damaged
    assert earlier == f"no checksum: {old}: an earlier version wrote it"


def test_what_killed_processes_left_is_deleted_and_what_runs_is_not(folders, capsys):
    gone = folders.results / f"checkpoints/a.{machine()}-4194304-00000000.partial"
    gone.mkdir()
    (gone / "sae.json").write_text("half")
    running = folders.cache / f"models/e.{new_tag()}.partial"
    running.mkdir()
    (folders.results / "training/a").mkdir()  # its SAE is finished
    lines = [line for line in checked(folders, capsys, "--fix") if line.startswith("left over")]
    assert len(lines) == 2 and all("(mended)" in line for line in lines)
    assert not gone.exists() and running.exists()
    assert not (folders.results / "training/a").exists()


def test_nothing_is_mended_while_a_run_works_there(folders, monkeypatch):
    lease = folders.results / "leases/record-x"
    lease.parent.mkdir()
    lease.write_text('{"tag": "00000000-1-00000000", "host": "elsewhere", "pid": 1}')
    with pytest.raises(UserError, match=r"a run works in .*mend it afterwards"):
        doctor(parse([str(folders.results), "--cache", str(folders.cache), "--fix"]))


def test_files_of_earlier_versions_are_whole_and_said_to_have_no_checksum(folders, capsys):
    old = folders.results / "checkpoints/a"
    shutil.rmtree(old)
    shutil.copytree(SAVED / "checkpoints/topk", old)
    (old / "outputs.safetensors").unlink()
    meta = json.loads((old / "sae.json").read_text())
    (old / "sae.json").write_text(json.dumps({**meta, "extra": {"id": "a"}}))
    (line,) = [line for line in checked(folders, capsys) if line.startswith("no checksum")]
    assert str(old) in line


def test_a_shard_is_read_once_in_a_process_and_again_when_it_was_written(folders, monkeypatch):
    folder = folders.results / "activations/c"
    stores.open_store(folder)
    shard = folder / "train-00000.safetensors"
    stamp = shard.stat()
    flip(shard, 0.9)
    os.utime(shard, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as damage leaves it
    with pytest.raises(UserError, match=r"damaged activation shard .*train-00000"):
        stores.open_store(folder)


@dataclass(frozen=True)
class Spoiled:
    """A change of one tensor in a training state."""

    name: str
    tensor: torch.Tensor
    message: str


SPOILED = [
    Spoiled("done", torch.tensor(7), "its step must be from 0 to 6, got 7"),
    Spoiled("done", torch.tensor(-1), "its step must be from 0 to 6, got -1"),
    Spoiled("done", torch.tensor(2.0), "its step must be from 0 to 6"),
    Spoiled("seconds", torch.tensor(-1.0).double(), "seconds must be 0 or more"),
    Spoiled("sae/b_dec", torch.full((6,), torch.nan), "numbers of sae/b_dec are not finite"),
    Spoiled("sae/W_enc", torch.zeros(3, 3), "sae/W_enc must be torch.float32 of shape"),
    Spoiled("adam/0/exp_avg", torch.zeros(3), "adam/0/exp_avg must be"),
    Spoiled("adam/9/exp_avg", torch.zeros(3), "damaged training state"),
    Spoiled("curve/step", torch.tensor([3.0, 1.0]).double(), "damaged training state"),
    Spoiled("stream/i", torch.tensor([1.0, 2.0]), "damaged training state"),
]


@pytest.mark.parametrize("spoiled", SPOILED, ids=lambda each: each.message[:30])
def test_a_state_that_cannot_be_is_refused_with_its_file(spoiled, tmp_path):
    tensors = load_file(SAVED / "trainings/topk/state.safetensors")
    save_file({**tensors, spoiled.name: spoiled.tensor}, tmp_path / "state.safetensors")
    with pytest.raises(UserError, match=rf"{spoiled.message}.*delete it to restart"):
        fit([training(tmp_path)], SavedStream(), STEPS, log=no_log)


def test_a_flipped_bit_of_a_training_state_is_found_before_a_step_is_taken(tmp_path):
    fit([training(tmp_path)], SavedStream(), STEPS, log=no_log)
    for at in (0.02, 0.3, 0.6, 0.99):
        path = tmp_path / "state.safetensors"
        content = path.read_bytes()
        flip(path, at)
        stream = SavedStream()
        with pytest.raises(UserError, match=r"damaged training state .*delete it to restart"):
            fit([training(tmp_path)], stream, STEPS, log=no_log)
        assert stream.i == 0
        path.write_bytes(content)


def test_a_lease_given_back_leaves_nothing(tmp_path):
    lease = Lease(tmp_path / "leases/x")
    assert lease.take()
    lease.give_back()
    assert list((tmp_path / "leases").iterdir()) == []
