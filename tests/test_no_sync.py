"""A training step queues work on the device and does not ask it for a number.

Seen on the CPU: the operations that make a GPU's host wait are known, and none is called.
"""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from gradsae.interfaces import Progress, Trainer
from gradsae.optim import Optim
from gradsae.sae.kernels import builtin
from gradsae.seeds import make_generator
from gradsae.trainers.common import HostCount, positions
from gradsae.trainers.gba import GBA
from gradsae.trainers.jumprelu import JumpReLU
from gradsae.trainers.l1 import L1
from gradsae.trainers.topk import TopK
from gradsae.training.fit import Training

OPTIM = Optim(lr=1e-3)
WAITS = {
    "_local_scalar_dense",  # item(), int(), bool()
    "nonzero",
    "masked_select",
    "bincount",
    "is_nonzero",
    "equal",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
}


class Waits(TorchDispatchMode):
    """Collects the calls for which a CUDA host waits: their result's size or value is read."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        masks = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        unsized = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in WAITS or masks or unsized:
            self.seen.append(name)
        return func(*args, **kwargs)


def waits(trainer: Trainer, monkeypatch, n_steps: int = 4) -> list[str]:
    """Return the waiting calls of the last of some steps, on torch built-ins as on a GPU."""
    for name in ("gradsae.sae.kernels", "gradsae.sae.kernels.gates", "gradsae.sae.kernels.select"):
        if hasattr(sys.modules.get(name), "backend"):
            monkeypatch.setattr(sys.modules[name], "backend", lambda tensor: builtin)
    x = torch.randn(64, 12, generator=make_generator(0, "test"))
    training = Training(trainer, trainer.build(x, make_generator(0, "init")))
    for step in range(n_steps - 1):
        training.step(x, Progress(step, n_steps))
    with Waits() as mode:
        training.step(x, Progress(n_steps - 1, n_steps))
    return mode.seen


@pytest.mark.parametrize("dead_after", [10**6, 64], ids=["all alive", "some dead"])
def test_a_topk_step_waits_for_nothing_but_the_count_sent_a_step_before(dead_after, monkeypatch):
    read = HostCount.read

    def unseen(self: HostCount) -> int:
        with _disable_current_modes():
            n_dead.append(read(self))
            return n_dead[-1]

    n_dead: list[int] = []
    monkeypatch.setattr(HostCount, "read", unseen)
    assert waits(TopK(d_sae=40, k=2, optim=OPTIM, dead_after=dead_after), monkeypatch) == []
    assert len(n_dead) == 4
    assert (n_dead[-1] > 0) == (dead_after == 64)


@pytest.mark.parametrize(
    "trainer",
    [
        L1(d_sae=40, l1=1.0, optim=OPTIM),
        GBA(d_sae=40, groups=2, optim=OPTIM),
        JumpReLU(d_sae=40, coefficient=1.0, optim=OPTIM),
    ],
    ids=lambda trainer: trainer.name,
)
def test_a_step_of_a_threshold_gate_waits_once(trainer, monkeypatch):
    """For the number of open latents, which decides between sparse and dense."""
    assert waits(trainer, monkeypatch) == ["_local_scalar_dense"]


def test_a_count_is_made_anew_where_the_buffer_changed_behind_it():
    trainer = TopK(d_sae=10, k=2, optim=OPTIM, dead_after=1000, aux_k=3)
    x = torch.randn(64, 12, generator=make_generator(0, "test"))
    training = Training(trainer, trainer.build(x, make_generator(0, "init")))
    assert training.step(x, Progress(0, 3))["aux"] == 0
    training.sae.get_buffer("state_idle").fill_(1000)
    assert training.step(x, Progress(1, 3))["aux"] > 0


@pytest.mark.parametrize("mask", ["0", "1", "0110", "11110", "000"])
def test_positions_are_those_of_nonzero(mask):
    mask = torch.tensor([c == "1" for c in mask])
    found = positions(mask, int(mask.sum()))
    assert torch.equal(found, mask.nonzero().squeeze(1))


def test_the_watch_sees_what_waits():
    x = torch.arange(4)
    with Waits() as mode:
        x.sum().item()
        x[x > 1]
        x.repeat_interleave(x)
        x.repeat_interleave(x, output_size=6)
        bool((x > 0).any())
    assert mode.seen.count("_local_scalar_dense") >= 2
    assert {"index", "repeat_interleave"} <= set(mode.seen)
