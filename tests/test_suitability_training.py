"""Suitability's verdict against what a short training of GBA then recovers (minutes)."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from gradsae.bench.cell import Cell, build
from gradsae.interfaces import KnownSource, Trainer
from gradsae.metrics.matching import max_cosines
from gradsae.seeds import make_generator
from gradsae.suitability import conditions, proposal, quantities, references
from gradsae.training.fit import Training, fit

CONF = Path(__file__).parent.parent / "conf"
EXACT = ("source=superposition", "source.support=exact", "source.coefficients=balanced")
MEETS = (*EXACT, "source.n_features=1024", "source.width=320", "source.l0=4")
DENSE = (*EXACT, "source.n_features=256", "source.width=128", "source.l0=48")


def cell(*words: str) -> Cell:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = [*words, "trainer=gba", "tracking=none", "device=cpu"]
        return build(compose("config", overrides=given, return_hydra_config=True))


def verdict_and_targets(words: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the overall verdict on a world, and the proposal's words but for its width."""
    source = cell(*words).source
    assert isinstance(source, KnownSource)
    drawn = source.held_out(1 << 16, 0)
    evidence = references.known(source, drawn, 0)
    assert evidence is not None
    raw = quantities.raw(drawn.x)
    rows = conditions.combined({"true": conditions.findings(evidence, raw, 2048)})
    settings = proposal.proposal(conditions.numbers(evidence, raw), raw)
    proposed = [one.override for one in settings if not one.override.startswith("d_sae=")]
    return conditions.overall(rows), proposed


def recovered(words: tuple[str, ...], proposed: list[str], d_sae: int, steps: int) -> float:
    """Return the share of features with a decoder row above cosine .9 after a training."""
    chosen = cell(*words, *proposed, f"d_sae={d_sae}", f"fit.steps={steps}")
    assert isinstance(chosen.source, KnownSource)
    cpu = torch.device("cpu")
    sample = chosen.source.stream(8192, 0, cpu).next()
    assert isinstance(chosen.method, Trainer)
    training = Training(chosen.method, chosen.method.build(sample, make_generator(0, "init")))
    stream = chosen.source.stream(chosen.fit.batch_size, 0, cpu)
    fit([training], stream, chosen.fit, log=lambda *_: None)
    best = max_cosines(chosen.source.features(), training.sae.decoder().detach()).a
    return (best > 0.9).double().mean().item()


@pytest.mark.slow
def test_a_world_that_meets_the_conditions_is_recovered_as_proposed():
    verdict, proposed = verdict_and_targets(MEETS)
    assert verdict == "met"
    # Half the width that is proposed, for time.
    assert recovered(MEETS, proposed, d_sae=2048, steps=1000) > 0.95


@pytest.mark.slow
def test_a_world_of_dense_codes_is_refused_and_not_recovered():
    verdict, proposed = verdict_and_targets(DENSE)
    assert verdict == "not met"
    assert recovered(DENSE, proposed, d_sae=1024, steps=500) < 0.05
