"""Worlds in sae-lens's folder format, and our draw against sae-lens's own generator."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import chi2_contingency, ks_2samp

from gradsae.errors import UserError
from gradsae.records.record import content_id
from gradsae.sources import saelens_world
from gradsae.sources.forest import Forest
from gradsae.sources.saved_world import SavedWorld
from gradsae.sources.world.dictionary import spread_out
from gradsae.sources.world.parts import World

SMALL = Forest(
    n_features=60,
    width=24,
    n_roots=4,
    branching=3,
    depth=2,
    exclusive=0.6,
    spread_std=1.5,
    last_mean=2.0,
    seed=3,
)


def same_world(one: World, other: World) -> None:
    for field in dataclasses.fields(World):
        if field.name != "trees":
            torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name))
    assert torch.equal(one.trees.parent, other.trees.parent)
    assert torch.equal(one.trees.scaled, other.trees.scaled)
    together = [t.group[:, None].eq(t.group) & (t.group >= 0) for t in (one.trees, other.trees)]
    assert torch.equal(*together)


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_roots": 0, "correlation_rank": 0, "spread_std": 0.0, "bias": 0.0}],
    ids=["all", "plain"],
)
def test_a_saved_world_is_loaded_as_the_same_law(tmp_path, changes):
    source = dataclasses.replace(SMALL, **changes)
    saelens_world.save(source, tmp_path)
    saved = SavedWorld(folder=str(tmp_path))
    same_world(saved.world(), source.world())
    torch.testing.assert_close(saved.rates(), source.rates())
    torch.testing.assert_close(saved.held_out(20, 0).x, source.held_out(20, 0).x)


def write(folder: Path, nodes: Any, config: dict[str, Any], **tensors: torch.Tensor) -> Path:
    """A folder of 6 features in 3 dimensions, written without any library."""
    weights = {
        "feature_vectors": 2 * torch.eye(3).repeat(2, 1),
        "bias": torch.tensor([0.0, 1.0, 2.0]),
        "firing_probabilities": torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1, 0.05]),
    }
    folder.mkdir(exist_ok=True)
    save_file(weights | tensors, folder / "synthetic_model.safetensors")
    base = {"num_features": 6, "hidden_dim": 3, "seed": 5}
    (folder / "synthetic_model_config.json").write_text(json.dumps(base | config))
    if nodes is not None:
        (folder / "hierarchy.json").write_text(json.dumps({"roots": nodes}))
    return folder


def test_a_folder_written_by_hand_is_read_as_its_format_says(tmp_path):
    nodes = [
        {
            "feature_index": 0,
            "mutually_exclusive_children": True,
            "scale_children_by_parent": True,
            "children": [
                {"feature_index": 3, "children": []},
                {"feature_index": 1},
                # A node without a feature: its children hang on feature 0, and do not scale.
                {"feature_index": None, "children": [{"feature_index": 5}]},
            ],
        },
    ]
    config = {
        "std_firing_magnitudes": {
            **{"generator_name": "folded_normal", "mean": 0.5, "std": 0.5},
            **{"min_value": None, "max_value": 0.6},
        },
        "mean_firing_magnitudes": {"generator_name": "exponential", "start": 4.0, "end": 1.0},
    }
    world = SavedWorld(folder=str(write(tmp_path, nodes, config))).world()
    assert world.trees.parent.tolist() == [-1, 0, -1, 0, -1, 0]
    assert world.trees.scaled.tolist() == [False, True, False, True, False, False]
    assert [g >= 0 for g in world.trees.group.tolist()] == [False, True, False, True, False, False]
    drawn = torch.randn(6, generator=torch.Generator().manual_seed(6))  # seed + 1
    # Vectors of length 2 make every magnitude twice as large.
    torch.testing.assert_close(world.spreads, 2 * (0.5 + 0.5 * drawn).abs().clamp_max(0.6))
    torch.testing.assert_close(world.means, 8 * 0.25 ** (torch.arange(6) / 5))
    assert torch.equal(world.directions, torch.eye(3).repeat(2, 1))
    assert world.factor.shape == (6, 0)


def test_a_saved_world_is_known_by_its_content(tmp_path):
    worlds = [SavedWorld(folder=str(write(tmp_path / name, None, {}))) for name in "ab"]
    assert content_id(worlds[0].identity()) == content_id(worlds[1].identity())
    write(tmp_path / "b", None, {"seed": 6})
    assert content_id(worlds[0].identity()) != content_id(worlds[1].identity())


RANDOM = {"std_firing_magnitudes": {"generator_name": "folded_normal", "mean": 1, "std": 1}}


@pytest.mark.parametrize(
    ("nodes", "config", "tensors", "message"),
    [
        ([{"feature_index": 6}], {}, {}, "feature_index 6 is not one of 6 features"),
        ([{"feature_index": 1}, {"feature_index": 1}], {}, {}, "feature 1 stands in the trees"),
        (None, {**RANDOM, "seed": None}, {}, "was drawn without a seed"),
        (None, {"mean_firing_magnitudes": {"generator_name": "gamma"}}, {}, "law, 'gamma'"),
        (None, {}, {"firing_probabilities": torch.full((6,), 1.2)}, "between 0 and 1"),
        (None, {}, {"correlation_factor": torch.ones(6, 2)}, "norm below 1"),
        (None, {"mean_firing_magnitudes": {"generator_name": "constant"}}, {}, "entry 'value'"),
    ],
)
def test_a_folder_that_holds_no_world_is_refused(tmp_path, nodes, config, tensors, message):
    with pytest.raises(UserError, match=message):
        SavedWorld(folder=str(write(tmp_path, nodes, config, **tensors))).world()


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"it has no synthetic_model_config\.json"):
        _ = SavedWorld(folder=str(tmp_path)).d_in
    write(tmp_path, None, {})
    (tmp_path / "synthetic_model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"synthetic_model\.safetensors: damaged weights"):
        _ = SavedWorld(folder=str(tmp_path)).d_in


# Against sae-lens

N = 30_000


@pytest.fixture(scope="module")
def sae_lens(tmp_path_factory):
    """A sae-lens model, the folder it was saved in, and codes that it drew."""
    synthetic = pytest.importorskip("sae_lens.synthetic")
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    model = synthetic.SyntheticModel(theirs(synthetic))
    folder = tmp_path_factory.mktemp("theirs")
    model.save(folder)
    torch.manual_seed(0)
    return model, folder, model.sample_with_features(N)[1]


def theirs(synthetic: Any) -> Any:
    return synthetic.SyntheticModelConfig(
        num_features=60,
        hidden_dim=24,
        firing_probability=synthetic.ZipfianFiringProbabilityConfig(
            exponent=0.5, max_prob=0.4, min_prob=0.01
        ),
        hierarchy=synthetic.HierarchyConfig(
            total_root_nodes=4,
            branching_factor=3,
            max_depth=2,
            mutually_exclusive_portion=0.6,
            compensate_probabilities=True,
            scale_children_by_parent=True,
        ),
        orthogonalization=synthetic.OrthogonalizationConfig(num_steps=20, lr=1e-3),
        correlation=synthetic.LowRankCorrelationConfig(rank=5, correlation_scale=0.25),
        std_firing_magnitudes=synthetic.FoldedNormalMagnitudeConfig(mean=0.5, std=1.5),
        mean_firing_magnitudes=synthetic.LinearMagnitudeConfig(start=5.0, end=2.0),
        bias=0.5,
        seed=11,
    )


def test_sae_lens_loads_our_world_as_it_is(sae_lens, tmp_path):
    saelens_world.save(SMALL, tmp_path)
    world = SMALL.world()
    model = type(sae_lens[0]).load_from_disk(tmp_path)
    generator = model.activation_generator
    pairs = [
        (model.feature_dict.feature_vectors.data, world.directions),
        (model.feature_dict.bias.data, world.bias),
        (generator.firing_probabilities, world.probabilities.float()),
        (generator.mean_firing_magnitudes, world.means),
        (generator.std_firing_magnitudes, world.spreads),
        (model.correlation_matrix.correlation_factor, world.factor),
        # What it samples by: recomputed from the config, not read.
        (torch.special.ndtr(-generator.correlation_thresholds), world.probabilities.float()),
    ]
    for their, our in pairs:
        torch.testing.assert_close(their, our, rtol=1e-4, atol=1e-6)
    again = tmp_path / "again"
    model.save(again)
    same_world(SavedWorld(folder=str(again)).world(), SavedWorld(folder=str(tmp_path)).world())


def test_our_draw_of_their_world_agrees_with_their_draw_in_rates_and_pairs(sae_lens):
    _, folder, codes = sae_lens
    ours = SavedWorld(folder=str(folder)).held_out(N, 0).truth
    assert ours is not None
    one, other = ((c > 0).double() for c in (codes, ours.to_dense()))
    pairs = [f.mT @ f / N for f in (one, other)]
    mean = (pairs[0] + pairs[1]) / 2
    z = (pairs[0] - pairs[1]) / (2 * mean * (1 - mean) / N).sqrt().clamp_min(1e-9)
    # Of 1,830 standard normals the largest passes 5 once in a thousand times.
    assert z.abs().max() < 5
    rates = SavedWorld(folder=str(folder)).rates()
    error = (rates * (1 - rates) / N).sqrt() + 0.004 * rates
    assert ((one.mean(0) - rates) / error).abs().max() < 4


def test_our_draw_of_their_world_agrees_with_their_draw_in_l0_and_magnitudes(sae_lens):
    _, folder, codes = sae_lens
    ours = SavedWorld(folder=str(folder)).held_out(N, 0).truth
    assert ours is not None
    both = [codes, ours.to_dense()]
    sizes = torch.stack([torch.bincount((c > 0).sum(1), minlength=61) for c in both]).numpy()
    test: Any = chi2_contingency(sizes[:, sizes.sum(0) >= 10])
    assert test.pvalue > 1e-3
    for feature in (0, 5, 17, 55):
        one, other = (c[:, feature][c[:, feature] > 0] for c in both)
        test = ks_2samp(one, other)
        assert test.pvalue > 1e-4, feature


def test_our_dictionaries_have_the_superposition_of_theirs(sae_lens):
    stats = pytest.importorskip("sae_lens.synthetic.stats")
    dictionary = pytest.importorskip("sae_lens.synthetic.feature_dictionary")
    start = torch.randn(60, 24, generator=torch.Generator().manual_seed(1))
    expected = dictionary.orthogonalize_embeddings(start, num_steps=30, lr=1e-3, chunk_size=16)
    ours = spread_out(start, 30, 1e-3)
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)
    their = stats.compute_superposition_stats(sae_lens[0].feature_dict)
    features = dataclasses.replace(SMALL, orthogonal_steps=20, orthogonal_lr=1e-3).features()
    cosines = (features @ features.mT).abs().fill_diagonal_(0)
    mine = cosines.sum().item() / (60 * 59)
    assert mine == pytest.approx(their.mean_abs_cos_sim, rel=0.05)
    assert cosines.amax(1).mean().item() == pytest.approx(their.mean_max_abs_cos_sim, rel=0.1)
