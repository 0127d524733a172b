"""The GBA recipe on the paper's toy: everything found, and kept to the last step (minutes)."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from gradsae.bench.cell import build
from gradsae.interfaces import KnownSource, Progress, Trainer
from gradsae.metrics.matching import max_cosines
from gradsae.seeds import make_generator
from gradsae.training.fit import Training

CONF = Path(__file__).parent.parent / "conf"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [10, 11])
def test_gba_finds_all_features_and_keeps_them(seed):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = ["row=gba_toy/gba", f"seed={seed}", "tracking=none", "device=cpu"]
        cell = build(compose("config", overrides=words, return_hydra_config=True))
    assert isinstance(cell.source, KnownSource)
    cpu, steps = torch.device("cpu"), cell.fit.steps
    sample = cell.source.stream(cell.fit.init_rows, seed, cpu).next()
    assert isinstance(cell.method, Trainer)
    training = Training(cell.method, cell.method.build(sample, make_generator(seed, "init")))
    stream = cell.source.stream(cell.fit.batch_size, seed, cpu)
    features = cell.source.features()

    def found() -> float:
        """Share of features with a decoder row above cosine .9."""
        best = max_cosines(features, training.sae.decoder().detach()).a
        return (best > 0.9).double().mean().item()

    assert found() == 0
    shares = []
    for step in range(steps):
        training.step(stream.next(), Progress(step, steps))
        if (step >= 2 * steps // 3 and step % 60 == 0) or step == steps - 1:
            shares.append(found())
    assert min(shares) == 1.0
