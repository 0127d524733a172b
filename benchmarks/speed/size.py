"""Training at size: a batch of the 16,384-feature world and one step of a method on it.

The contenders are ours without one of the fast paths, or without all: same numbers, more time.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from benchmarks.speed.case import Case, Setup, Work
from benchmarks.speed.generator import BATCH, world

if TYPE_CHECKING:
    from gradsae.interfaces import Trainer

D_SAE, K = 4096, 25
METHODS = ("topk", "batchtopk", "matryoshka", "gba", "topk, half dead")
BARS = {"topk": 0.045, "batchtopk": 0.045, "matryoshka": 0.065, "gba": 0.045}
"""Seconds of a batch and a step to reach on two quiet cores."""


def _no_screen() -> None:
    from gradsae.sae.kernels import select

    select.screen = lambda x, W: None


def _plain_sums() -> None:
    from gradsae.sae.kernels import lanes

    lanes.applies = lambda *matrices: False


PATHS: dict[str, Sequence[Callable[[], None]]] = {
    "without screen": (_no_screen,),
    "plain sums": (_plain_sums,),
    "not ahead": (),
    "none of them": (_no_screen, _plain_sums),
}
"""What each contender switches off; the last two draw no batch ahead."""


def cases() -> list[Case]:
    return [
        Case(
            name=f"{method} at size",
            shape=f"16384 features, 768 dims, {D_SAE} latents",
            unit=f"draw {BATCH} rows and take a step; aim: {BARS.get(method, '-')} s",
            ours=lambda m=method: _work(m, ahead=True),
            contenders={name: _without(method, name) for name in PATHS},
        )
        for method in METHODS
    ]


def _without(method: str, name: str) -> Setup:
    def setup() -> Work:
        for switch_off in PATHS[name]:
            switch_off()
        return _work(method, ahead=name not in ("not ahead", "none of them"))

    return setup


def _trainer(method: str) -> "Trainer":
    from gradsae.optim import Optim
    from gradsae.trainers.batchtopk import BatchTopK
    from gradsae.trainers.gba import GBA
    from gradsae.trainers.matryoshka import Matryoshka
    from gradsae.trainers.topk import TopK

    optim = Optim(lr=1e-7, clip=1.0)  # small: the sparsity stays as it is set
    if method == "gba":
        optim = Optim(lr=1e-7)
        return GBA(
            d_sae=D_SAE, htf=0.05, ltf=0.005, tied=False, normalise="unit",
            scale_init=0.05, bias_init="quantile", optim=optim,
        )  # fmt: skip
    kinds = {"batchtopk": BatchTopK, "matryoshka": Matryoshka}
    return kinds.get(method, TopK)(d_sae=D_SAE, k=K, optim=optim)


def _work(method: str, *, ahead: bool) -> Work:
    from gradsae.interfaces import Progress
    from gradsae.seeds import make_generator
    from gradsae.training.fit import Training

    source, cpu = world(16384), torch.device("cpu")
    stream = source.stream(BATCH, 0, cpu)
    stream._ahead = ahead
    trainer = _trainer(method)
    sae = trainer.build(source.held_out(2048, 0).x, make_generator(0, "init"))
    if method.endswith("dead"):
        with torch.no_grad():
            sae.b_enc[::2] = -1
        sae.get_buffer("state_idle")[::2] = 10**9
    training = Training(trainer, sae)
    return lambda: training.step(stream.next(), Progress(0, 1000))
