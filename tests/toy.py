"""A toy that every trainer can learn in a second: two of 24 directions in 12 dimensions."""

from pathlib import Path
from typing import Any

import torch

from gradsae.interfaces import Kind, Stream, Trainer
from gradsae.optim import Optim
from gradsae.sae.dictionary import Dictionary
from gradsae.seeds import make_generator
from gradsae.training.fit import FitSettings, Log, Training, fit

OPTIM = Optim(lr=3e-3)


class ToyStream(Stream):
    """Two of 24 random unit directions in 12 dimensions, each with a weight in [0, 1]."""

    def __init__(self, seed: int = 0, batch: int = 256) -> None:
        self.generator = make_generator(seed, "data")
        self.batch = batch
        world = make_generator(0, "world")
        self.V = torch.nn.functional.normalize(torch.randn(24, 12, generator=world), dim=1)

    def next(self):
        on = torch.rand(self.batch, 24, generator=self.generator).argsort(1) < 2
        return (on * torch.rand(self.batch, 24, generator=self.generator)) @ self.V

    def state(self):
        return {"generator": self.generator.get_state()}

    def restore(self, state):
        self.generator.set_state(state["generator"])


def no_log(i: int, step: int, parts: dict[str, float]) -> None:
    pass


def start(trainer: Trainer[Kind], seed: int = 0, state_dir: Path | None = None) -> Training[Kind]:
    sample = ToyStream(seed=1000).next()
    return Training(trainer, trainer.build(sample, make_generator(seed, "init")), state_dir)


def train(
    trainer: Trainer[Any], steps: int, log: Log = no_log, state_dir: Path | None = None
) -> Any:
    training = start(trainer, state_dir=state_dir)
    settings = FitSettings(steps=steps, batch_size=256, save_every=10, log_every=1)
    fit([training], ToyStream(), settings, log=log)
    return training.sae


def held_out_fvu(sae: Dictionary) -> float:
    x = ToyStream(seed=2000, batch=2048).next()
    with torch.no_grad():
        recon = sae(x).recon
    return ((x - recon).square().sum() / (x - x.mean(0)).square().sum()).item()
