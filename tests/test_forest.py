"""The realistic world: its law, its fast draw against the plain one, its limits."""

import dataclasses
from copy import copy
from typing import Any

import numpy as np
import pytest
import torch
from numba import types
from scipy.stats import chi2_contingency, ks_2samp, multivariate_normal, norm

from gradsae.sae.codes import SparseCodes
from gradsae.sources.forest import Forest
from gradsae.sources.world import draw, laws, loops
from gradsae.sources.world.draw import Plan
from gradsae.sources.world.marginals import true_rates
from gradsae.sources.world.parts import Trees, World
from gradsae.sources.world.reference import dense_codes

SMALL = Forest(n_features=60, width=24, n_roots=3, branching=3, depth=2, correlation_scale=0.15)
N = 40_000


def knotty_world() -> World:
    """Everything at once: strong correlation, magnitudes often below 0, all kinds of groups.

    0 to 9 are free. 10, 11, 12 are roots of which one fires. 13 to 16 are children of 0: 13, 14, 15
    exclude each other, 16 is beside them. 17 to 20 are exclusive children of 13, always active.
    21 and 22 are children of 10 that do not scale.
    """
    parent = torch.full((23,), -1)
    parent[13:17], parent[17:21], parent[21:] = 0, 13, 10
    group = torch.full((23,), -1)
    group[10:13], group[13:16], group[17:21] = 7, 2, 0
    probabilities = torch.linspace(0.6, 0.1, 23)
    probabilities[17:21] = 1
    probabilities[9] = 0.004
    spreads = torch.linspace(0, 3, 23)
    generator = torch.Generator().manual_seed(5)
    return World(
        directions=torch.eye(23),
        bias=torch.zeros(23),
        probabilities=probabilities,
        factor=laws.correlation_factor(23, 4, 0.4, generator),
        means=torch.linspace(2, 1, 23),
        spreads=spreads,
        trees=Trees(parent=parent, group=group, scaled=(parent >= 0) & (parent != 10)),
    )


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """The knotty world drawn fast and drawn plainly."""
    fast = Plan(knotty_world()).draw(N, torch.Generator().manual_seed(1)).to_dense()
    return fast, dense_codes(knotty_world(), N, torch.Generator().manual_seed(2))


def independence(counts: np.ndarray) -> float:
    """p-value of two rows of counts having one law."""
    result: Any = chi2_contingency(counts)
    return result.pvalue


def same_law(one: torch.Tensor, other: torch.Tensor) -> float:
    """p-value of two samples having one law."""
    result: Any = ks_2samp(one, other)
    return result.pvalue


def difference(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Difference of two shares of N rows each, in standard errors."""
    mean = (one + other) / 2
    return (one - other) / (2 * mean * (1 - mean) / N).sqrt().clamp_min(1e-9)


def test_the_fast_draw_has_the_rates_and_pairs_of_the_plain_one(drawn):
    firing = [(codes > 0).double() for codes in drawn]
    pairs = [f.mT @ f / N for f in firing]
    # 276 numbers: the largest of as many standard normals passes 4.6 once in a thousand times.
    assert difference(*pairs).abs().max() < 4.6


def test_the_fast_draw_has_the_joint_law_of_parents_and_children_of_the_plain_one(drawn):
    for family in ([0, 13, 14, 16], [13, 17, 18, 20], [10, 11, 12, 21], [0, 13, 19, 9]):
        patterns = [((c[:, family] > 0) * torch.tensor([1, 2, 4, 8])).sum(1) for c in drawn]
        counts = torch.stack([torch.bincount(p, minlength=16) for p in patterns]).numpy()
        counts = counts[:, counts.sum(0) >= 10]
        assert independence(counts) > 1e-4, family


def test_the_fast_draw_has_the_l0_distribution_of_the_plain_one(drawn):
    sizes = torch.stack([torch.bincount((c > 0).sum(1), minlength=24) for c in drawn]).numpy()
    assert independence(sizes[:, sizes.sum(0) >= 10]) > 1e-3


@pytest.mark.parametrize("feature", [0, 8, 12, 13, 16, 19, 22])
def test_the_fast_draw_has_the_magnitudes_of_the_plain_one(drawn, feature):
    fast, plain = (codes[:, feature] for codes in drawn)
    assert same_law(fast[fast > 0], plain[plain > 0]) > 1e-4


def test_children_fire_only_with_their_parent_and_exclusive_ones_never_together():
    world = knotty_world()
    firing = Plan(world).draw(5000, torch.Generator().manual_seed(3)).to_dense() > 0
    child = (world.trees.parent >= 0).nonzero().squeeze(1)
    assert not (firing[:, child] & ~firing[:, world.trees.parent[child]]).any()
    for group in (7, 2, 0):
        assert int(firing[:, world.trees.group == group].sum(1).max()) == 1


def test_a_pair_of_free_features_fires_together_as_the_bivariate_normal_says(drawn):
    world, i, j = knotty_world(), 2, 4
    correlation = float(world.factor[i] @ world.factor[j])
    low = norm.ppf(world.probabilities[[i, j]].numpy())
    covariance: Any = np.array([[1, correlation], [correlation, 1]])
    both = multivariate_normal(cov=covariance).cdf(low)
    both *= np.prod(norm.cdf((world.means / world.spreads)[[i, j]].numpy()))
    assert abs(correlation) > 0.1
    seen = float(((drawn[0][:, i] > 0) & (drawn[0][:, j] > 0)).double().mean())
    assert seen == pytest.approx(both, abs=4 * (both / N) ** 0.5)


def test_true_rates_are_those_of_the_plain_draw(drawn):
    rates = true_rates(knotty_world())
    seen = (drawn[1] > 0).double().mean(0)
    error = (rates * (1 - rates) / N).sqrt() + 0.004 * rates
    assert ((seen - rates) / error).abs().max() < 4


def test_true_rates_without_correlation_are_those_counted_by_hand():
    trees = Trees(
        parent=torch.tensor([-1, 0, 0, 1]),
        group=torch.tensor([-1, 5, 5, -1]),
        scaled=torch.zeros(4, dtype=torch.bool),
    )
    world = World(
        directions=torch.eye(4),
        bias=torch.zeros(4),
        probabilities=torch.tensor([0.5, 0.4, 0.6, 0.5]),
        factor=torch.zeros(4, 0),
        means=torch.ones(4),
        spreads=torch.zeros(4),
        trees=trees,
    )
    # One of two rivals: alone, or half of the times that both are active.
    first = 0.5 * (0.4 * 0.4 + 0.4 * 0.6 / 2)
    second = 0.5 * (0.6 * 0.6 + 0.4 * 0.6 / 2)
    expected = torch.tensor([0.5, first, second, first * 0.5], dtype=torch.float64)
    torch.testing.assert_close(true_rates(world), expected, rtol=1e-6, atol=0)


def test_rates_do_not_hang_on_the_points_they_are_averaged_over():
    world = Forest(n_features=256, width=4, n_roots=3, orthogonal_steps=0).world()
    more, fewer = true_rates(world, 1 << 14), true_rates(world)
    error = (fewer / more - 1).abs()
    assert error.max() < 0.04
    assert error.mean() < 0.008


def test_the_16k_world_fires_as_published():
    """Mean l0 of about 34 (docs/synth_sae_bench.md); sae-lens: 34.8 +- 0.2 for its seed."""
    source = Forest(n_features=16384, width=8, n_roots=128, orthogonal_steps=0, seed=42)
    truth = source.held_out(2000, 0).truth
    assert truth is not None
    assert truth.n_open().float().mean().item() == pytest.approx(34.5, abs=1)
    rare = source.world().probabilities[-5504:]  # free features
    expected = float(rare.sum())
    n = int((truth.latents >= 16384 - 5504).sum())
    assert n / 2000 == pytest.approx(expected, rel=0.06)


def test_screening_in_tiles_misses_no_feature_and_repeats_none():
    n = 1000  # not a multiple of a tile
    world = dataclasses.replace(
        Forest(n_features=n, width=4, n_roots=0, orthogonal_steps=0).world(),
        probabilities=torch.where(torch.arange(n) % 3 == 0, 1.0, 0.0),
        spreads=torch.zeros(n),
    )
    codes = Plan(world).draw(50, torch.Generator().manual_seed(0))
    assert torch.equal(codes.n_open(), torch.full((50,), 334))
    assert torch.equal(codes.to_dense() > 0, (torch.arange(n) % 3 == 0).expand(50, n))


def equal(one: SparseCodes, other: SparseCodes) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("values", "latents", "offsets")
    )


def test_rows_do_not_hang_on_the_number_of_threads(monkeypatch):
    source = Forest(n_features=512, width=8, n_roots=4, orthogonal_steps=0)
    plan = Plan(source.world())
    alone = plan.draw(1000, torch.Generator().manual_seed(0))
    monkeypatch.setattr(draw, "WORK_PER_BLOCK", 1 << 40)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert equal(plan.draw(1000, torch.Generator().manual_seed(0)), alone)


def test_rows_do_not_hang_on_how_many_entries_were_made_room_for(monkeypatch):
    roomy = Plan(SMALL.world()).draw(500, torch.Generator().manual_seed(0))
    monkeypatch.setattr(draw, "START_CAPACITY", 1)
    tight = Plan(SMALL.world())
    for _ in range(2):
        assert equal(tight.draw(500, torch.Generator().manual_seed(0)), roomy)


def test_compiled_loops_are_kept_on_disk_without_the_name_of_a_class_of_ours(drawn):
    """A file of theirs is read even where a class has been renamed since."""
    loop: Any = loops.draw_rows
    kinds = [kind for signature in loop.signatures for kind in signature]
    assert kinds and not any(isinstance(kind, types.BaseNamedTuple) for kind in kinds)


def test_a_draw_of_no_rows_is_empty():
    codes = Plan(SMALL.world()).draw(0, torch.Generator())
    assert codes.n_rows == len(codes.latents) == 0


def test_x_is_codes_times_directions_plus_a_bias_of_the_stated_norm():
    source = dataclasses.replace(SMALL, bias=2.0)
    held_out = source.held_out(200, 0)
    assert held_out.truth is not None
    rest = held_out.x - held_out.truth.to_dense() @ source.features()
    torch.testing.assert_close(rest, source.world().bias.expand(200, -1), rtol=0, atol=2e-5)
    assert source.world().bias.norm().item() == pytest.approx(2.0)


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_roots": 61}, "n_roots=61 is more than the n_features=60"),
        ({"n_roots": 5}, "5 trees with branching=3 and depth=2 need 65 features"),
        ({"highest_rate": 1.5}, "highest_rate is a share between 0 and 1, got 1.5"),
        ({"highest_rate": 1e-4}, "that band is empty"),
        ({"lowest_rate": 0}, "lowest_rate must be a number above 0"),
        ({"rate_exponent": 0}, "rate_exponent must be a number above 0"),
        ({"branching": 1}, "branching must be a whole number from 2, got 1"),
        ({"depth": 0}, "depth must be a whole number from 1, got 0"),
        ({"exclusive": 2}, "exclusive is a share"),
        ({"correlation_scale": -0.1}, "correlation_scale must be a number from 0"),
        ({"last_mean": 0}, "last_mean must be a number above 0"),
        ({"compensate": "yes"}, "compensate must be true or false"),
        ({"bias": -1}, "bias must be a number from 0, got -1"),
    ],
)
def test_a_bad_field_is_named_with_its_value(fields, message):
    source: Any = copy(SMALL)
    vars(source).update(fields)
    with pytest.raises(ValueError, match=message):
        source.__post_init__()  # called here, because the tests' type hook stops __init__ first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probabilities": torch.full((23,), 1.5)}, "between 0 and 1"),
        ({"factor": torch.ones(23, 2)}, "norm below 1"),
        ({"spreads": -torch.ones(23)}, "spreads of magnitudes"),
        ({"means": -torch.ones(23)}, "needs a mean magnitude above 0"),
        ({"means": torch.ones(22)}, "means has 22 entries for 23 directions"),
    ],
)
def test_a_world_that_cannot_be_is_refused(changes, message):
    world: Any = copy(knotty_world())
    vars(world).update(changes)
    with pytest.raises(ValueError, match=message):
        world.__post_init__()
