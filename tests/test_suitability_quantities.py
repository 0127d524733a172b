"""Each quantity of the suitability check against a value by hand, by numpy or by a known law."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from suitability_worlds import truth, world

from gradsae.sae.codes import from_dense
from gradsae.suitability import quantities

HAND = torch.tensor(
    [
        [1.0, 2.0, 0.0],
        [3.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [1.0, 1.0, 2.0],
    ]
)


# Codes.


def test_support_counts_open_entries_of_each_row():
    found = quantities.support(from_dense(HAND))
    assert (found.median, found.largest, found.mean) == (1.5, 3, 1.5)
    assert found.p99 == pytest.approx(np.quantile([2, 1, 0, 3], 0.99))


def test_closed_stored_entries_are_not_active():
    codes = from_dense(HAND).with_values(torch.tensor([1.0, -2.0, 3.0, 0.0, 1.0, 2.0]))
    assert quantities.support(codes).mean == 1.0
    assert quantities.mean_squares(codes)[1].tolist() == [2, 1, 1]


def test_the_interval_of_the_99th_percentile_holds_it_as_often_as_it_says():
    rng, truth99, held = np.random.default_rng(0), 10, 0
    for _ in range(200):  # sizes uniform on 0 ... 10: the 99th percentile is 10
        sizes = rng.integers(0, 11, 500)
        dense = torch.from_numpy((np.arange(10) < sizes[:, None]).astype(np.float32))
        found = quantities.p99_interval(from_dense(dense))
        held += found.low <= truth99 <= found.high
    assert held >= 0.95 * 200


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (40, 1000)])
def test_wilson_agrees_with_scipy(count, n):
    expected = binomtest(count, n).proportion_ci(method="wilson")
    found = quantities.wilson(count, n)
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


def test_mean_squares_are_over_active_rows_only():
    means, fired = quantities.mean_squares(from_dense(HAND))
    assert means.tolist() == pytest.approx([(1 + 9 + 1) / 3, (4 + 1) / 2, 4.0])
    assert fired.tolist() == [3, 2, 1]


def test_size_ratio_is_largest_over_least_mean_square():
    dense = torch.zeros(120, 2)
    dense[:60, 0], dense[60:, 1] = 2.0, 5.0
    assert quantities.size_ratio(from_dense(dense)) == pytest.approx((6.25, 6.25, 6.25))


def test_features_seen_too_rarely_have_no_say_in_the_size_ratio():
    dense = torch.zeros(100, 3)
    dense[:50, 0], dense[50:, 1], dense[:5, 2] = 1.0, 1.0, 100.0
    assert quantities.size_ratio(from_dense(dense)).value == 1.0


def test_the_least_share_of_a_balanced_world_is_one_over_root_s():
    _, evidence = truth(world(l0=4))
    assert quantities.least_share(evidence.codes, 0.05) == pytest.approx(0.5)


def test_the_least_share_agrees_with_numpy():
    rows = HAND.numpy()[[0, 1, 3]]
    shares = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = [np.sqrt(np.mean(column[column > 0] ** 2)) for column in shares.T]
    assert quantities.least_share(from_dense(HAND), 0.0) == pytest.approx(min(expected))


def test_rate_ratio_divides_counted_rates():
    dense = torch.zeros(1000, 2)
    dense[:400, 0], dense[:100, 1] = 1.0, 1.0
    found = quantities.rate_ratio(from_dense(dense), 0.0)
    assert found.value == pytest.approx(4.0)
    assert found.low < 4.0 < found.high


# Co-occurrence.


@pytest.mark.parametrize("size", [2, 8])
def test_exact_support_has_the_co_occurrence_of_the_hypergeometric_law(size):
    _, evidence = truth(world(l0=size), 100_000)
    expected = (size - 1) / (64 - 1)
    found = quantities.co_occurrence(evidence.codes)
    assert found.low < expected < found.high
    assert found.high - found.low < 0.03


def test_a_pair_that_always_fires_together_is_found():
    generator = torch.Generator().manual_seed(0)
    dense = (torch.rand(4000, 20, generator=generator) < 0.05).float()
    dense[:, 7] = torch.maximum(dense[:, 7], dense[:, 3])  # 3 implies 7
    found = quantities.co_occurrence(from_dense(dense))
    assert found.value == 1.0
    assert found.low > 0.95


def test_features_that_never_meet_have_no_co_occurrence():
    dense = torch.eye(10).repeat(200, 1)
    found = quantities.co_occurrence(from_dense(dense))
    assert found.value == 0.0
    assert 0 < found.high < 0.02


# Directions and activations.


def test_coherence_is_the_largest_absolute_cosine_off_the_diagonal():
    directions = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 4.0]])
    assert quantities.coherence(directions) == pytest.approx(0.8)


def test_coherence_agrees_with_numpy_across_blocks(generator, monkeypatch):
    monkeypatch.setattr(quantities, "BLOCK", 7)
    directions = torch.randn(40, 9, generator=generator)
    units = directions.numpy() / np.linalg.norm(directions.numpy(), axis=1, keepdims=True)
    cosine = np.abs(units @ units.T)
    np.fill_diagonal(cosine, 0)
    assert quantities.coherence(directions) == pytest.approx(cosine.max(), abs=1e-6)


def test_effective_dimension_of_white_noise_is_its_dimension(generator):
    found = quantities.effective_dimension(torch.randn(20_000, 30, generator=generator))
    assert found.value == pytest.approx(30, rel=0.01)


def test_effective_dimension_is_the_participation_ratio_of_the_true_spectrum(generator):
    spectrum = np.array([4.0, 1.0, 1.0, 0.25])
    x = torch.randn(60_000, 4, generator=generator) * torch.tensor(spectrum**0.5).float() + 7
    expected = spectrum.sum() ** 2 / (spectrum**2).sum()
    found = quantities.effective_dimension(x)
    assert found.low < expected < found.high
    assert found.high - found.low < 0.1


def test_few_rows_do_not_shrink_the_effective_dimension(generator):
    drawn = [
        quantities.effective_dimension(torch.randn(150, 50, generator=generator)).value
        for _ in range(20)
    ]
    assert np.mean(drawn) == pytest.approx(50, rel=0.05)  # uncorrected: 50 / (1 + 50 / 150) = 37.5


def test_norms_and_mean_agree_with_numpy(generator):
    x = torch.randn(5000, 6, generator=generator) + 1.0
    norms, found = np.linalg.norm(x.numpy(), axis=1), quantities.raw(x)
    expected = np.quantile(norms, 0.95) / np.quantile(norms, 0.05)
    assert found.norm_ratio.value == pytest.approx(expected, rel=1e-5)
    share = (x.numpy().mean(0) ** 2).sum() / (norms**2).mean()
    assert found.mean_share == pytest.approx(share, rel=1e-4)
