"""Width as an axis: latents per true feature of the source."""

import pytest
import torch
from omegaconf import OmegaConf
from test_configs import composed

from gradsae.bench.cell import build
from gradsae.errors import UserError
from gradsae.seeds import make_generator
from gradsae.sources import saelens_world
from gradsae.sources.forest import Forest
from gradsae.sources.superposition import Superposition
from gradsae.trainers.controls import Control


def cell(tmp_path, *words: str):
    cfg = composed(f"results={tmp_path}", "tracking=none", "device=cpu", *words)
    OmegaConf.set_struct(cfg, False)
    return build(cfg, "example")


@pytest.mark.parametrize(
    ("words", "d_sae"),
    [
        (("source=superposition",), 256),
        (("source=superposition", "width=0.25"), 128),  # of 512 features
        (("source=superposition", "source.n_features=10", "source.l0=2", "width=2"), 20),
        (("source=two_sparsity", "width=1"), 128),  # a default of its class
        (("source=synthsaebench_4k", "width=0.5", "trainer=untrained"), 2048),
    ],
)
def test_a_width_counts_latents_per_feature_of_the_source(words, d_sae, tmp_path):
    built = cell(tmp_path, *words)
    assert built.method.d_sae == d_sae
    assert type(built.config()["trainer"]["d_sae"]) is int  # as in ids from before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("width=0",), "width must be .* above 0"),
        (("width=0.5", "d_sae=64"), "width=0.5 means d_sae=256 here, got d_sae=64: set one"),
        (("width=0.5", "source=lm_tiny"), "source lm_layer has no known features; set d_sae"),
    ],
)
def test_a_width_that_cannot_be_is_refused(words, said, tmp_path):
    with pytest.raises(UserError, match=said):
        cell(tmp_path, *words)


def test_a_width_on_a_saved_world_counts_the_features_in_its_files(tmp_path):
    saelens_world.save(Forest(n_features=60, width=24, n_roots=4, branching=3, depth=2), tmp_path)
    built = cell(tmp_path, "source=saved_world", f"source.folder={tmp_path}", "width=0.5")
    assert built.method.d_sae == 30


def test_the_control_of_a_width_has_the_most_frequent_features():
    source = Superposition(n_features=12, width=6, l0=2, support="bernoulli", exponent=1.0, seed=3)
    control = Control(atoms="features", d_sae=5, k=2, only_frequent=True).bind(source)
    sae = control.build(source.held_out(64, 0).x, make_generator(0, "init"))
    best = source.rates().tolist()
    frequent = sorted(range(12), key=lambda i: -best[i])[:5]
    assert torch.allclose(sae.decoder(), source.features()[frequent])
