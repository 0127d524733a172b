"""Nothing in a training step depends on which thread comes first."""

import pytest
import torch
from test_saved_files import TRAINERS, SavedStream
from torch.utils._python_dispatch import TorchDispatchMode

from gradsae.interfaces import Progress
from gradsae.sae.kernels import select
from gradsae.seeds import make_generator
from gradsae.trainers.l1 import L1
from gradsae.training.fit import Training

ADDS = {"index_put", "index_put_", "_index_put_impl_", "put", "put_"}


class Races(TorchDispatchMode):
    """Collects the calls in which torch adds floats from several threads, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, accumulate = func.overloadpacket.__name__, (kwargs or {}).get("accumulate", False)
        if name in ADDS and args[0].is_floating_point() and (accumulate or True in args[3:4]):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def always_sparse(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(select, "DENSE_ABOVE", 1.0)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_adds_in_one_order(name: str):
    trainer, stream = TRAINERS[name], SavedStream()
    training = Training(trainer, trainer.build(stream.next(), make_generator(0, "init")))
    with Races() as mode:
        for step in range(3):
            training.step(stream.next(), Progress(step, 3))
    assert mode.seen == []


def test_the_watch_sees_a_gradient_through_brackets():
    weight = torch.ones(3, requires_grad=True)
    with Races() as mode:
        weight[torch.tensor([0, 0, 2])].sum().backward()
        torch.zeros(3).index_put_((torch.tensor([0]),), torch.ones(1), accumulate=True)
        torch.zeros(3).index_put_((torch.tensor([0]),), torch.ones(1))
        torch.zeros(3).index_add_(0, torch.tensor([0, 0]), torch.ones(2))
    assert len(mode.seen) == 2


def test_a_training_on_two_threads_is_the_same_again():
    """Large enough that torch would add the gradient of the penalty on both threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second = (weights_after_training() for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first[name], second[name]) for name in first)


def weights_after_training() -> dict[str, torch.Tensor]:
    x = torch.randn(1024, 64, generator=make_generator(0, "test"))
    trainer = L1(d_sae=256, l1=0.1, optim=TRAINERS["l1"].optim)
    training = Training(trainer, trainer.build(x, make_generator(0, "init")))
    for step in range(8):
        training.step(x, Progress(step, 8))
    assert len(training.sae.encode(x).values) > 1 << 15  # entries from which torch shares work out
    return training.sae.state_dict()
