"""What every source must satisfy. A new source adds one line to SOURCES and one to CHANGES."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from copy import copy
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from scipy.stats import chisquare

from benchmarks.places import ROOT
from gradsae.errors import UserError
from gradsae.interfaces import KnownSource, Source
from gradsae.lm.spec import LanguageModel
from gradsae.records.record import content_id
from gradsae.sae.directions import random_directions
from gradsae.seeds import make_generator
from gradsae.sources import lm_layer, saelens_world
from gradsae.sources.common import bernoulli_support, exact_support
from gradsae.sources.corpora import Corpus
from gradsae.sources.forest import Forest
from gradsae.sources.lm_layer import LmLayer
from gradsae.sources.saved_world import SavedWorld
from gradsae.sources.streams import ShuffledStream
from gradsae.sources.superposition import Superposition
from gradsae.sources.two_sparsity import TwoSparsity
from gradsae.sources.windows import draw_windows

CPU = torch.device("cpu")
POWER_LAW = Superposition(
    n_features=24,
    width=12,
    l0=3,
    support="bernoulli",
    exponent=0.8,
    coefficients="half_normal",
    directions="gaussian",
)

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}

KNOWN: dict[str, KnownSource] = {
    "exact": Superposition(n_features=24, width=12, l0=3, coefficients="exponential"),
    "paired": Superposition(n_features=24, width=12, l0=4, coefficients="exponential", paired=0.5),
    "power_law": POWER_LAW,
    "two_sparsity": TwoSparsity(),
    "forest": Forest(n_features=48, width=24, n_roots=2, branching=3, depth=2, bias=0.0),
}


def from_yaml(name: str, folder: Path) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[f"source={name}", f"results={folder}", "seeds.world=7"])
    return instantiate(cfg.source, _convert_="object")


def saved_world(folder: Path) -> SavedWorld:
    source = cast(Forest, KNOWN["forest"])
    saelens_world.save(source, folder / "world")
    return SavedWorld(folder=str(folder / "world"))


SOURCES: dict[str, Callable[[Path], Source]] = {
    **{name: lambda _, source=source: source for name, source in KNOWN.items()},
    "lm_tiny": partial(from_yaml, "lm_tiny"),
    "saved_world": saved_world,
}
TINY_TEXTS = [f"{'abcdefghij'[i]} sentence that tells document {i} from others." for i in range(10)]
TINY_CORPUS = Corpus(
    name="ten", source="texts", licence="none", eval_percent=30, min_chars=1, texts=TINY_TEXTS
)
CHANGES: dict[str, dict[str, Any]] = {
    "power_law": {
        "n_features": 25,
        "width": 13,
        "l0": 2.5,
        "support": "exact",
        "exponent": 0.5,
        "coefficients": "constant",
        "low": 0.1,
        "high": 2.0,
        "normalise_rows": True,
        "directions": "orthogonal",
        "noise": 0.1,
        "seed": 1,
        "paired": 0.1,
    },
    "two_sparsity": {
        "n_features": 64,
        "width": 20,
        "sparsities": (3, 19),
        "share": 0.25,
        "seed": 1,
    },
    "forest": {
        "n_features": 50,
        "width": 25,
        "n_roots": 1,
        "branching": 2,
        "depth": 1,
        "exclusive": 0.5,
        "compensate": False,
        "scale_children": False,
        "rate_exponent": 1.0,
        "highest_rate": 0.3,
        "lowest_rate": 1e-3,
        "correlation_rank": 3,
        "correlation_scale": 0.2,
        "orthogonal_steps": 3,
        "orthogonal_lr": 1e-3,
        "first_mean": 3.0,
        "last_mean": 3.0,
        "spread_mean": 0.1,
        "spread_std": 0.1,
        "bias": 1.0,
        "seed": 1,
    },
    "lm_tiny": {
        "model": LanguageModel(name="gpt2", source="random", licence="none", config=GPT2),
        "corpus": TINY_CORPUS,
        "layer": 3,
        "site_kind": "mlp_out",
        "context_length": 8,
        "n_tokens": 128,
        "n_eval_tokens": 32,
        "read_dtype": "bfloat16",
        "store_dtype": "bfloat16",
        "drop_special": False,
        "outlier_factor": None,
        "seed": 1,
    },
}
PRESUMED: dict[str, dict[str, Any]] = {"paired": {"support": "exact", "exponent": 0.0, "l0": 2}}
"""What a change presumes of other fields."""
NOT_IDENTITY = {"lm_tiny": {"batch_windows", "device", "root"}}
"""Fields that say how the data are made or where they lie, not which."""

every_known = pytest.mark.parametrize("source", KNOWN.values(), ids=KNOWN.keys())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADSAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield tmp_path_factory.mktemp("results")


@pytest.fixture(params=SOURCES.keys())
def source(request, folder) -> Source:
    return SOURCES[request.param](folder)


def batches(source: Source, seed: int, n: int = 3) -> list[torch.Tensor]:
    stream = source.stream(32, seed, CPU)
    return [stream.next() for _ in range(n)]


def rows_of(x: torch.Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x if row.any()}


def test_the_same_seed_gives_the_same_batches(source):
    for one, other in zip(batches(source, 3), batches(source, 3), strict=True):
        assert torch.equal(one, other)


def test_another_seed_gives_other_batches(source):
    assert not torch.equal(batches(source, 3)[0], batches(source, 4)[0])


def test_batches_of_one_stream_differ(source):
    first, second, _ = batches(source, 3)
    assert not torch.equal(first, second)


def test_batches_are_float32_rows_of_width_d_in(source):
    x = batches(source, 0)[0]
    assert x.shape == (32, source.d_in)
    assert x.dtype == torch.float32


def test_held_out_rows_are_not_training_rows(source):
    seen = rows_of(torch.cat(batches(source, 3, n=6)))
    held_out = rows_of(source.held_out(200, 3).x)
    # Windows that begin with the same words ("The ...") have their first rows in common.
    limit = 0.1 * len(held_out) if isinstance(source, LmLayer) else 0
    assert len(seen & held_out) <= limit


def test_the_same_seed_gives_the_same_held_out_rows(source):
    assert torch.equal(source.held_out(50, 1).x, source.held_out(50, 1).x)
    assert not torch.equal(source.held_out(50, 1).x, source.held_out(50, 2).x)


def test_a_restored_stream_goes_on_bit_for_bit(source):
    stream = source.stream(32, 0, CPU)
    for _ in range(5):
        stream.next()
    state = {name: tensor.clone() for name, tensor in stream.state().items()}
    expected = [stream.next() for _ in range(30)]
    other = source.stream(32, 0, CPU)
    other.next()
    other.restore(state)
    assert all(torch.equal(x, other.next()) for x in expected)


def test_identity_and_provenance_survive_json(source):
    for said in (source.identity(), source.provenance()):
        assert json.loads(json.dumps(said)) == said
    assert source.identity()["name"] == source.name


@pytest.mark.parametrize("name", CHANGES)
def test_identity_changes_with_each_field_that_shapes_the_data(name, folder):
    source: Any = SOURCES[name](folder)
    for field, value in CHANGES[name].items():
        base = dataclasses.replace(source, **PRESUMED.get(field, {}))
        rest = {"exponent": 0.0} if value == "exact" else {}
        changed = dataclasses.replace(base, **{field: value}, **rest)
        assert content_id(changed.identity()) != content_id(base.identity()), field
    fields = {field.name for field in dataclasses.fields(source)}
    assert fields == CHANGES[name].keys() | NOT_IDENTITY.get(name, set())


def test_whole_and_decimal_numbers_are_the_same_world():
    decimal = dataclasses.replace(cast(Superposition, KNOWN["exact"]), l0=3.0)
    assert content_id(decimal.identity()) == content_id(KNOWN["exact"].identity())


@every_known
def test_true_features_have_unit_norm(source):
    features = source.features()
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))


@every_known
def test_rows_are_true_coefficients_times_true_features(source):
    held_out = source.held_out(100, 0)
    torch.testing.assert_close(held_out.truth.to_dense() @ source.features(), held_out.x)


@every_known
def test_features_fire_at_the_stated_rates(source):
    n = 20_000
    fired = source.held_out(n, 0).truth.fired() / n
    rates = source.rates()
    error = (fired - rates) / (rates * (1 - rates) / n).sqrt()
    assert error.abs().max() < 4.5  # 128 standard normals pass 4.5 once in a thousand seeds


@every_known
@pytest.mark.parametrize("seed", range(3))
def test_initial_weights_are_not_the_true_features(source, seed):
    source = dataclasses.replace(source, seed=seed)
    features = source.features()
    n_features, width = features.shape
    start = random_directions(n_features, width, make_generator(seed, "init"))
    assert (features * start).sum(1).mean().abs() < 0.3


@every_known
def test_another_world_seed_gives_other_features(source):
    other = dataclasses.replace(source, seed=source.seed + 1)
    assert not torch.allclose(other.features(), source.features())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_subset_of_an_exact_support_is_equally_likely(generator, size):
    chosen = exact_support(30_000, 4, size, generator)
    counts = Counter(tuple(sorted(row)) for row in chosen.tolist())
    expected = {1: 4, 2: 6, 4: 1}[size]
    assert len(counts) == expected
    assert expected == 1 or chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("rates", [[0.3, 0.3, 0.3, 0.3], [0.95, 0.5, 0.1, 0.01]])
def test_a_bernoulli_support_has_independent_features(generator, rates):
    n = 50_000
    p = torch.tensor(rates)
    features, offsets = bernoulli_support(n, p, generator)
    rows = torch.arange(n).repeat_interleave(offsets.diff())
    dense = torch.zeros(n, 4).index_put((rows, features), torch.ones(len(rows)), accumulate=True)
    patterns = Counter(tuple(row) for row in dense.int().tolist())
    cells = list(product((0, 1), repeat=4))
    assert set(patterns) <= set(cells)
    chance = [torch.where(torch.tensor(cell) > 0, p, 1 - p).prod().item() for cell in cells]
    rare = sum(c for c in chance if c * n < 5)
    counts = [patterns[cell] for cell, c in zip(cells, chance, strict=True) if c * n >= 5]
    expected = [c * n for c in chance if c * n >= 5]
    counts, expected = [*counts, n - sum(counts)], [*expected, rare * n + 1e-9]
    if rare == 0:
        counts, expected = counts[:-1], expected[:-1]
    expected = [e * sum(counts) / sum(expected) for e in expected]
    assert chisquare(counts, expected).pvalue > 1e-3


def test_sparse_and_dense_bernoulli_draws_agree_in_number_and_in_pairs(generator):
    n, p = 20_000, POWER_LAW.rates()
    truth = POWER_LAW.held_out(n, 0).truth
    assert truth is not None
    sparse = (truth.to_dense() > 0).float()
    dense = (torch.rand(n, len(p), generator=generator) < p).float()
    for one, other in zip(l0_and_pairs(sparse), l0_and_pairs(dense), strict=True):
        assert (one - other).abs().max() < 5 * (2 * 0.25 / n) ** 0.5


def l0_and_pairs(active: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distribution of the active features of a row, and rates of all pairs."""
    sizes = torch.bincount(active.sum(1).long(), minlength=active.shape[1] + 1)
    return sizes / len(active), active.T @ active / len(active)


@pytest.mark.parametrize("paired", [0.0, 0.5, 1.0])
def test_paired_rows_have_the_stated_co_occurrence(paired):
    n, size, n_rows = 12, 4, 40_000
    source = Superposition(n_features=n, width=6, l0=size, paired=paired)
    truth = source.held_out(n_rows, 0).truth
    assert truth is not None
    assert set(truth.n_open().tolist()) == {size}
    active = (truth.to_dense() > 0).float()
    found = (active.T @ active) * n / (n_rows * size)  # P(column | row)
    # Of the size - 2 others of a paired row, each of n - 2 features is one equally often.
    other = paired * (size - 2) / (n - 2) + (1 - paired) * (size - 1) / (n - 1)
    partner = paired + (1 - paired) * (size - 1) / (n - 1)
    expected = torch.full((n, n), other)
    first = torch.arange(0, n, 2)
    expected[first, first + 1] = expected[first + 1, first] = partner
    expected.fill_diagonal_(1)
    assert (found - expected).abs().max() < 5 * (0.25 * n / (n_rows * size)) ** 0.5


def test_a_world_without_pairs_keeps_the_id_from_before_there_were_any():
    without, source = KNOWN["exact"], KNOWN["paired"]
    assert "paired" not in without.identity()
    assert source.identity()["paired"] == 0.5


LAWS: dict[str, tuple[float, float]] = {
    "balanced": (3**-0.5, 1 / 3),
    "constant": (1.0, 1.0),
    "uniform": (1.25, 1.25**2 + 1.5**2 / 12),
    "half_normal": ((2 / torch.pi) ** 0.5, 1.0),
    "exponential": (1.0, 2.0),
}


@pytest.mark.parametrize("law", LAWS)
def test_coefficients_have_the_moments_of_their_law(law):
    source = Superposition(n_features=24, width=12, l0=3, coefficients=law, low=0.5, high=2.0)
    truth = source.held_out(10_000, 0).truth
    assert truth is not None
    mean, square = LAWS[law]
    assert truth.values.mean().item() == pytest.approx(mean, rel=0.02)
    assert truth.values.square().mean().item() == pytest.approx(square, rel=0.03)
    assert truth.values.min() > 0


def test_normalised_rows_have_unit_coefficients_and_empty_rows_stay_empty():
    source = Superposition(
        n_features=24,
        width=12,
        l0=1,
        support="bernoulli",
        coefficients="exponential",
        normalise_rows=True,
    )
    truth = source.held_out(500, 0).truth
    assert truth is not None
    norms = truth.to_dense().norm(dim=1)
    torch.testing.assert_close(norms[truth.n_open() > 0], torch.ones(int((norms > 0).sum())))
    assert (truth.n_open() == 0).any()


def test_noise_has_the_stated_deviation_in_each_dimension():
    source = Superposition(n_features=24, width=12, l0=3, noise=0.5)
    held_out = source.held_out(10_000, 0)
    assert held_out.truth is not None
    noise = held_out.x - held_out.truth.to_dense() @ source.features()
    torch.testing.assert_close(noise.std(0), torch.full((12,), 0.5), rtol=0.03, atol=0)


def test_orthogonal_directions_do_not_interfere_up_to_the_width():
    features = Superposition(n_features=20, width=12, l0=2, directions="orthogonal").features()
    torch.testing.assert_close(features[:12] @ features[:12].mT, torch.eye(12))
    assert len(features) == 20


def test_gaussian_directions_spread_around_norm_one():
    lengths = POWER_LAW._directions().norm(dim=1)
    assert lengths.std() > 0.05
    assert lengths.mean().item() == pytest.approx(1, abs=0.15)


def test_two_sparsity_has_the_rate_of_the_paper_and_both_kinds_of_rows():
    source = TwoSparsity()
    torch.testing.assert_close(source.rates(), torch.full((128,), 0.08984375))
    truth = source.held_out(4000, 0).truth
    assert truth is not None
    sizes = truth.n_open()
    assert set(sizes.tolist()) == {3, 20}
    assert (sizes == 3).float().mean().item() == pytest.approx(0.5, abs=0.04)
    torch.testing.assert_close(truth.to_dense().norm(dim=1), torch.ones(4000))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"l0": 2.5}, "whole number"),
        ({"l0": 30}, "n_features=24, got 30"),
        ({"l0": "abc"}, "l0 must be a number"),
        ({"exponent": 1.0}, "exponent must be 0, got 1.0"),
        ({"support": "bernouilli"}, "support must be one of exact, bernoulli"),
        ({"support": "bernoulli", "l0": 20, "exponent": 1.0}, "rates must be below 1"),
        ({"support": "bernoulli", "l0": 24}, "rates must be below 1"),
        ({"low": 2.0}, "high must be a number above 2"),
        ({"paired": 1.5}, "paired is a share between 0 and 1, got 1.5"),
        ({"paired": 0.5}, "paired=0.5 needs an even l0, got 3"),
        ({"paired": 0.5, "l0": 2, "n_features": 23}, "an even n_features, got 23"),
        ({"paired": 0.5, "support": "bernoulli"}, "needs support=exact, got 'bernoulli'"),
        ({"noise": -1}, "noise must be a number from 0, got -1"),
        ({"n_features": 0}, "n_features must be a whole number from 1, got 0"),
        ({"seed": -1}, "seed must be a whole number from 0, got -1"),
        ({"directions": "random"}, "directions must be one of"),
    ],
)
def test_a_bad_field_is_named_with_its_value(fields, message):
    source: Any = copy(KNOWN["exact"])
    vars(source).update(fields)
    with pytest.raises(ValueError, match=message):
        source.__post_init__()  # called here, because the tests' type hook stops __init__ first


@pytest.mark.parametrize("sparsities", [(3,), (3, 129), (0, 3)])
def test_two_sparsity_rejects_other_than_two_possible_sizes(sparsities):
    with pytest.raises(ValueError, match="sparsities"):
        TwoSparsity(sparsities=sparsities)


@pytest.mark.parametrize(
    "name", ["superposition", "two_sparsity", "synthsaebench_1k", "synthsaebench_4k"]
)
def test_a_synthetic_yaml_takes_the_world_seed(name, tmp_path):
    source = from_yaml(name, tmp_path)
    assert source.name in (name, "forest")
    assert source.seed == 7


def test_the_16k_yaml_is_the_published_world(tmp_path):
    """Against the HierarchyConfig, ... of experiments/create_synth_bench_16k_model.py, v2."""
    source = from_yaml("synthsaebench_16k", tmp_path)
    assert source == Forest(
        n_features=1024 * 16,
        width=768,
        n_roots=128,
        branching=4,
        depth=3,
        exclusive=1.0,
        compensate=True,
        scale_children=True,
        rate_exponent=0.5,
        highest_rate=0.4,
        lowest_rate=5e-4,
        correlation_rank=25,
        correlation_scale=0.1,
        orthogonal_steps=100,
        orthogonal_lr=3e-4,
        first_mean=5.0,
        last_mean=4.0,
        spread_mean=0.5,
        spread_std=0.5,
        bias=0.5,
        seed=42,
    )


def test_the_layer_yaml_takes_model_and_corpus_and_shares_one_harvest_over_seeds(tmp_path):
    source = from_yaml("lm_layer", tmp_path)
    assert source.names() == {"model": {"name": "smollm2"}, "corpus": {"name": "prose"}}
    assert source.root == f"{tmp_path}/activations"
    assert source.seed == 0


# Streams of stored rows


def stored(n_rows: int, batch_size: int, seed: int = 0) -> ShuffledStream:
    """A stream over the rows [0], [1], ..."""
    return ShuffledStream(lambda index: index[:, None].float(), n_rows, batch_size, seed, CPU)


def test_an_epoch_returns_every_row_once_and_the_next_in_another_order():
    stream = stored(12, 4)
    epochs = [torch.cat([stream.next() for _ in range(3)]).squeeze(1) for _ in range(2)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(12))
    assert not torch.equal(*epochs)


def test_rows_that_do_not_fill_a_batch_wait_for_another_epoch():
    stream = stored(10, 4)
    for _ in range(5):
        epoch = torch.cat([stream.next() for _ in range(2)]).squeeze(1).tolist()
        assert len(set(epoch)) == 8


def test_a_batch_larger_than_the_store_is_refused():
    with pytest.raises(UserError, match=r"batch_size=13 .* 12 stored training rows"):
        stored(12, 13)


# The layer of a language model


def tiny(folder: Path, **changes: Any) -> LmLayer:
    return dataclasses.replace(from_yaml("lm_tiny", folder), **changes)


def test_one_process_loads_a_model_once(folder):
    assert tiny(folder).lm() is tiny(folder, layer=1).lm()


def test_a_harvested_layer_needs_no_model(folder, monkeypatch):
    expected = batches(tiny(folder), 0)[0]
    monkeypatch.setattr(lm_layer, "_loaded", None)
    source = tiny(folder)
    assert torch.equal(batches(source, 0)[0], expected)
    assert source.d_in == 32
    source.held_out(10, 0)
    source.provenance()


def test_no_model_is_needed_to_know_the_ids(folder, monkeypatch):
    monkeypatch.setattr(lm_layer, "_loaded", None)
    source = tiny(folder, seed=99)
    assert source.identity()["site"] == "resid_post.2"
    assert not (folder / "activations" / source.activations_id()).exists()


def test_the_store_may_be_read_in_less_precision_than_the_model_has(folder):
    exact, rough = tiny(folder), tiny(folder, read_dtype="bfloat16")
    assert rough.lm().dtype == torch.float32
    one, other = exact.held_out(1000, 0).x, rough.held_out(1000, 0).x
    assert 0 < (one - other).norm() / one.norm() < 0.02
    with pytest.raises(ValueError, match="read_dtype must be one of model, auto"):
        bad: Any = copy(exact)
        vars(bad)["read_dtype"] = "float16"
        bad.__post_init__()


def test_held_out_rows_are_the_evaluation_split_with_its_outliers(folder):
    source = tiny(folder, outlier_factor=1.1)
    held_out = source.held_out(10_000, 0)
    counts = source.provenance()["activations"]["eval"]
    assert held_out.outlier is not None
    assert len(held_out.x) == counts["n_rows"]
    assert int(held_out.outlier.sum()) == counts["n_outliers"] > 0


def test_dropped_marks_special_positions_and_outliers(folder):
    source = tiny(folder, outlier_factor=1.1)
    limit = 1.1 * source.provenance()["activations"]["median_norm"]
    token_ids = torch.stack(list(source.eval_windows(3, 0)))
    token_ids[1, 4] = source.lm().tokenizer.all_special_ids[0]
    acts = source.lm().read(source.site(), token_ids)
    special = torch.zeros_like(token_ids, dtype=torch.bool)
    special[:, 0] = special[1, 4] = True
    assert torch.equal(source.dropped(token_ids, acts), special | (acts.norm(dim=2) > limit))
    everything = tiny(folder, outlier_factor=None, drop_special=False)
    assert not everything.dropped(token_ids, acts).any()


def test_evaluation_windows_are_whole_and_of_held_out_documents(folder):
    source = tiny(folder, corpus=TINY_CORPUS)
    windows = source.eval_windows(4, 0)
    documents = TINY_CORPUS.documents("eval")["text"]
    for window in windows:
        assert len(window) == 16
        assert any(source.lm().text(window) in document for document in documents)
    again = source.eval_windows(4, 0)
    assert all(torch.equal(a, b) for a, b in zip(windows, again, strict=True))


def test_windows_are_spread_over_the_documents(folder):
    lm = tiny(folder).lm()
    documents = list(TINY_CORPUS.documents("train")["text"])
    n = 2 * len(documents)  # of the three whole windows in each
    drawn = draw_windows(lm, TINY_CORPUS, "train", n, 16, make_generator(0, "test"))
    origin = [{i for i, text in enumerate(documents) if lm.text(w) in text} for w in drawn]
    for i in range(len(documents)):
        assert sum({i} == found for found in origin) <= 2


def test_long_documents_make_up_for_short_ones(folder):
    texts = [f"short {i}" for i in range(10)] + [f"{i}" * 160 for i in range(6)]
    corpus = dataclasses.replace(TINY_CORPUS, name="uneven", texts=texts)
    n_long = sum(len(text) == 160 for text in corpus.documents("train")["text"])
    lm, n = tiny(folder).lm(), 10 * n_long
    drawn = draw_windows(lm, corpus, "train", n, 16, make_generator(0, "test"))
    assert n_long > 0
    assert len({lm.text(window) for window in drawn}) == n_long
    with pytest.raises(UserError, match=f"{n * 16} tokens .* but {(n + 1) * 16} are asked for"):
        draw_windows(lm, corpus, "train", n + 1, 16, make_generator(0, "test"))


def test_too_little_text_is_said_with_both_numbers(folder):
    message = r"corpus tiny has \d+ tokens .* train split, but 160000 are asked for"
    with pytest.raises(UserError, match=message):
        tiny(folder, n_tokens=160_000).prepare()


def test_a_layer_out_of_range_is_refused_before_anything_is_written(folder):
    source = tiny(folder, layer=4)
    with pytest.raises(UserError, match="layer 4 is out of range"):
        source.prepare()
    assert not (folder / "activations" / source.activations_id()).exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer": -1}, "layer must be a whole number from 0, got -1"),
        ({"site_kind": "resid"}, "site_kind must be one of resid_post"),
        ({"n_tokens": 10}, "n_tokens must be a whole number from 16, got 10"),
        ({"context_length": 1}, "context_length must be a whole number from 2"),
        ({"store_dtype": "float16"}, "store_dtype must be one of bfloat16, float32"),
        ({"outlier_factor": 0}, "outlier_factor must be a number above 0"),
        ({"batch_windows": 0}, "batch_windows must be a whole number from 1"),
    ],
)
def test_a_bad_field_of_a_layer_is_named_with_its_value(tmp_path, fields, message):
    source: Any = copy(from_yaml("lm_tiny", tmp_path))
    vars(source).update(fields)
    with pytest.raises(ValueError, match=message):
        source.__post_init__()
