"""SAEs trained together are those trained alone, whatever happens to their companions."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from test_trainers import TRAINERS, NanStream

from gradsae.errors import UserError
from gradsae.interfaces import Loss, Trainer
from gradsae.optim import Optim
from gradsae.sae.model import load
from gradsae.seeds import Seeds
from gradsae.sources.superposition import Superposition
from gradsae.storage.lease import holding
from gradsae.trainers.topk import TopK
from gradsae.training import checkpoints, sharing
from gradsae.training.checkpoints import Checkpoint, Request
from gradsae.training.fit import FitSettings
from gradsae.training.sharing import Shared, split, stream_key

SOURCE = Superposition(n_features=20, width=10, l0=2)
SETTINGS = FitSettings(steps=24, batch_size=64, init_rows=128, log_every=5, save_every=10)


class UnbuildableError(Exception):
    pass


@dataclass(frozen=True, kw_only=True)
class Failing(Trainer):
    """TopK, until its loss is infinite; or it cannot even be built."""

    unbuildable: bool = False
    d_sae: int = 24
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-3))

    @property
    def name(self) -> str:
        return "failing"

    def inner(self) -> TopK:
        return TopK(d_sae=self.d_sae, k=2, optim=self.optim)

    def build(self, sample, generator):
        if self.unbuildable:
            raise UnbuildableError
        return self.inner().build(sample, generator)

    def loss(self, sae, out, progress):
        loss = self.inner().loss(sae, out, progress)
        return loss if progress.step < 15 else Loss(loss.total, {"fvu": torch.tensor(math.inf)})

    def after_step(self, sae, out, progress):
        self.inner().after_step(sae, out, progress)


def request(root: Path, trainer: Trainer, seed: int = 0, **changed) -> Request:
    about = {"source": SOURCE, "settings": SETTINGS, "device": torch.device("cpu")}
    return Request(**{**about, **changed}, method=trainer, seeds=Seeds(init=seed), root=root)


def hear_nothing(*said) -> None:
    pass


def alone(root: Path, trainer: Trainer) -> Checkpoint:
    return checkpoints.get(request(root, trainer), log=hear_nothing)


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_every_trainer_gives_the_same_checkpoint_in_company_as_alone(tmp_path):
    group = [request(tmp_path / "together", trainer) for trainer in TRAINERS]
    together = checkpoints.train(group, hear_nothing)
    for trainer, found, asked in zip(TRAINERS, together, group, strict=True):
        single = alone(tmp_path / "alone", trainer)
        assert isinstance(found, Checkpoint)
        assert found.id == single.id
        assert found.curve == single.curve
        assert_same(load(asked.folder()), single.sae)


class KilledError(Exception):
    pass


def kill_at(last: int):
    def log(i: int, step: int, parts: dict[str, float]) -> None:
        if step == last:
            raise KilledError

    return log


def test_after_a_kill_each_goes_on_in_other_company(tmp_path):
    a, b, c = (request(tmp_path / "shared", trainer) for trainer in TRAINERS[1:4])
    with pytest.raises(KilledError):
        checkpoints.train([a, b], kill_at(15))
    started = []
    checkpoints.train([a], lambda i, step, parts: started.append(step))
    assert started == [10, 15, 20, 23]
    checkpoints.train([c, b], hear_nothing)
    for asked in (a, b, c):
        assert isinstance(asked.method, Trainer)
        single = alone(tmp_path / "alone", asked.method)
        assert_same(load(asked.folder()), single.sae)
        found = checkpoints.get(asked, log=hear_nothing)
        assert found.curve == single.curve
    assert list((tmp_path / "shared" / "training").iterdir()) == []


def test_one_that_diverges_or_cannot_be_built_takes_no_other_with_it(tmp_path):
    trainers = [Failing(), TRAINERS[0], Failing(unbuildable=True)]
    steps = {0: [], 1: []}
    diverged, fine, unbuilt = checkpoints.train(
        [request(tmp_path, trainer) for trainer in trainers],
        lambda i, step, parts: steps[i].append(step),
    )
    assert steps == {0: [0, 5, 10], 1: [0, 5, 10, 15, 20, 23]}
    assert isinstance(diverged, UserError)
    assert isinstance(unbuilt, UnbuildableError)
    assert isinstance(fine, Checkpoint)
    assert_same(fine.sae, alone(tmp_path / "alone", TRAINERS[0]).sae)
    with pytest.raises(UserError, match=r"failing diverged at step 15: fvu is not finite"):
        alone(tmp_path, trainers[0])
    with pytest.raises(UnbuildableError):
        alone(tmp_path, trainers[2])


def test_a_source_with_a_nan_is_named_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(Superposition, "stream", lambda *args: NanStream(bad_batch=0))
    with pytest.raises(UserError, match=r"source superposition: .* activations are not all finite"):
        checkpoints.train([request(tmp_path, TRAINERS[0])], hear_nothing)


def test_a_stream_is_shared_by_data_settings_and_data_seed_and_nothing_else(tmp_path):
    one = request(tmp_path, TRAINERS[0])
    same = request(tmp_path, TRAINERS[2], seed=5)
    assert stream_key(one) == stream_key(same)
    for changed in (
        {"source": replace(SOURCE, seed=1)},
        {"settings": replace(SETTINGS, batch_size=32)},
        {"seeds": Seeds(data=1)},
        {"root": tmp_path / "other"},
    ):
        assert stream_key(replace(one, **changed)) != stream_key(one)


def test_a_part_holds_no_more_bytes_than_allowed_and_one_kind_of_threads(tmp_path):
    n_bytes = 2 * 24 * 10 * 16  # encoder and decoder; weight, gradient, two moments in float32
    room = replace(SETTINGS, shared_gb=2.5 * n_bytes / 1e9)
    small = [
        request(tmp_path, TopK(d_sae=24, k=k, optim=Optim(lr=1e-3)), settings=room)
        for k in (1, 2, 3, 4, 5)
    ]
    assert [len(part) for part in split(small)] == [2, 2, 1]
    assert [len(part) for part in split([replace(w, settings=SETTINGS) for w in small])] == [5]
    large = request(tmp_path, TopK(d_sae=2**21, k=1, optim=Optim(lr=1e-3)))
    assert len(split([request(tmp_path, TRAINERS[0]), large])) == 2


def test_a_group_is_trained_once_for_all_its_cells_when_the_first_comes_up(tmp_path, monkeypatch):
    calls = []
    real = checkpoints.train
    monkeypatch.setattr(checkpoints, "train", lambda g, log: calls.append(len(g)) or real(g, log))
    cells = [[request(tmp_path, t)] for t in (TRAINERS[0], TRAINERS[1], TRAINERS[0])]
    cells[1].append(request(tmp_path, TRAINERS[1], source=replace(SOURCE, seed=1)))
    shared = Shared(cells)
    assert len(shared.train_for(0)) == 1
    assert shared.train_for(1) == shared.train_for(2) == []
    assert calls == [2]
    assert cells[2][0].folder().exists() and not cells[1][1].folder().exists()


def test_whatever_goes_wrong_in_shared_training_is_left_to_the_cells(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(sharing.checkpoints, "train", fail)
    shared = Shared([[request(tmp_path, t)] for t in TRAINERS[:2]])
    assert shared.train_for(0) == ["shared training stopped, each cell goes on alone: out of luck"]
    assert shared.train_for(1) == []


def full_disk(after: int):
    """Return a save_file that fails like safetensors on a full disk, from call `after` on."""
    from safetensors.torch import save_file

    calls = []

    def save(tensors, path, *args):
        calls.append(path)
        if len(calls) > after:
            Path(path).write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        save_file(tensors, path, *args)

    return save


def test_a_disk_that_fills_up_is_named_and_the_saved_state_goes_on(tmp_path, monkeypatch):
    asked = request(tmp_path, TRAINERS[0])
    for after, what in ((1, "state of a training"), (1, "a trained SAE")):
        with monkeypatch.context() as patch:
            patch.setattr("safetensors.torch.save_file", full_disk(after))
            with pytest.raises(UserError, match=f"cannot write .*{what} to .*No space left.*room"):
                checkpoints.get(asked, log=hear_nothing)
        kept = [path.name for path in tmp_path.rglob("*") if path.is_file()]
        assert kept == ["state.safetensors"]
    steps = []
    found = checkpoints.get(asked, log=lambda step, parts: steps.append(step))
    assert steps[0] > 10
    assert_same(found.sae, alone(tmp_path / "other", TRAINERS[0]).sae)


def test_a_found_checkpoint_tells_its_curve_again(tmp_path):
    first, again = [], []
    checkpoints.get(request(tmp_path, TRAINERS[0]), log=lambda *said: first.append(said))
    checkpoints.get(request(tmp_path, TRAINERS[0]), log=lambda *said: again.append(said))
    assert [step for step, _ in first] == [0, 5, 10, 15, 20, 23]
    assert again == first


def test_a_state_that_a_kill_left_beside_its_checkpoint_is_removed_unless_somebody_trains(tmp_path):
    asked = request(tmp_path, TRAINERS[0])
    checkpoints.get(asked, log=hear_nothing_of_one)
    state = asked.state_dir() / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"")
    with holding(asked.lease()):
        checkpoints.get(asked, log=hear_nothing_of_one)
    assert state.exists()
    checkpoints.get(asked, log=hear_nothing_of_one)
    assert not state.parent.exists()


def hear_nothing_of_one(step: int, parts: dict[str, float]) -> None: ...


def test_seconds_of_companions_add_up_to_less_than_the_wall_clock(tmp_path):
    import time

    started = time.perf_counter()
    done = checkpoints.train([request(tmp_path, t) for t in TRAINERS], hear_nothing)
    wall = time.perf_counter() - started
    seconds = [outcome.seconds for outcome in done if isinstance(outcome, Checkpoint)]
    assert len(seconds) == len(TRAINERS)
    assert all(s > 0 for s in seconds)
    assert sum(seconds) <= wall
