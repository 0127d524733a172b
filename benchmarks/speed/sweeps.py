"""Speed of sweeps: several SAEs from one stream, against one after another."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.speed.case import Case, Work

if TYPE_CHECKING:
    from gradsae.interfaces import Trainer

STEPS, BATCH = 40, 1024
D_SAE = 512


def cases() -> list[Case]:
    return [
        Case(
            name="shared stream",
            shape="8 SAEs, 512 latents, 16384 features, 256 dims",
            unit=f"{STEPS} steps of 8 SAEs (TopK, l1, GBA) on a synthetic source, batch {BATCH}",
            ours=lambda: _work(together=True),
            contenders={"one after another": lambda: _work(together=False)},
            bars={},
        )
    ]


def trainers() -> "Sequence[Trainer]":
    from gradsae.optim import Optim
    from gradsae.trainers.gba import GBA
    from gradsae.trainers.l1 import L1
    from gradsae.trainers.topk import TopK

    optim = Optim(lr=1e-3)
    topk = [TopK(d_sae=D_SAE, k=k, optim=optim) for k in (8, 16, 32)]
    l1 = [L1(d_sae=D_SAE, l1=l1, optim=optim) for l1 in (1.0, 5.0, 20.0)]
    gba = [GBA(d_sae=D_SAE, optim=optim, htf=htf) for htf in (0.05, 0.1)]
    return [*topk, *l1, *gba]


def _work(*, together: bool) -> Work:
    """Return training from nothing; each call starts anew, so no SAE is found."""
    import torch

    from gradsae.seeds import make_generator
    from gradsae.sources.superposition import Superposition
    from gradsae.training.fit import FitSettings, Training, fit

    source = Superposition(n_features=16_384, width=256, l0=32, support="bernoulli", exponent=0.5)
    settings = FitSettings(steps=STEPS, batch_size=BATCH, save_every=0)
    cpu = torch.device("cpu")

    def start(group: "Sequence[Trainer]") -> None:
        sample = source.stream(settings.init_rows, 0, cpu).next()
        built = [trainer.build(sample, make_generator(0, "init")) for trainer in group]
        trainings = [Training(t, sae) for t, sae in zip(group, built, strict=True)]
        fit(trainings, source.stream(BATCH, 0, cpu), settings, log=lambda i, step, parts: None)

    groups = [trainers()] if together else [[trainer] for trainer in trainers()]

    def work() -> None:
        for group in groups:
            start(group)

    return work
