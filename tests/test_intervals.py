"""Intervals over seeds, prompts and worlds: against scipy, and what is drawn together."""

import numpy as np
import pytest
import scipy.stats
import torch

from gradsae.seeds import make_generator
from gradsae.stats.bootstrap import percentiles, resampled_means
from gradsae.stats.intervals import prompts_interval, seeds_interval, worlds_interval


def test_bootstrap_interval_agrees_with_scipy():
    values = torch.randn(30, generator=make_generator(0, "values")).double()
    theirs = scipy.stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=9999, method="percentile", rng=0
    ).confidence_interval
    np.testing.assert_allclose(prompts_interval(values.tolist(), 0), theirs, atol=0.03)


def test_bootstrap_draws_scores_of_the_same_prompts_together():
    values = torch.rand(12, 1, generator=make_generator(0, "values"))
    both = resampled_means(torch.cat([values, 3 * values], 1), 5)
    torch.testing.assert_close(both[:, 1], 3 * both[:, 0])
    low, high = percentiles(both)
    torch.testing.assert_close(low[1], 3 * low[0])
    assert bool((low < high).all())


def test_bootstrap_of_one_prompt_is_refused():
    with pytest.raises(ValueError, match="at least 2 prompts, got 1"):
        prompts_interval([1.0], 0)


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.98, 1.0, 0.99, 0.97, 1.0], [3, 3, 3]])
def test_the_interval_over_seeds_is_students(values: list):
    found = seeds_interval(values)
    scale = scipy.stats.sem(values)
    if scale:
        low, high = scipy.stats.t.interval(0.95, len(values) - 1, loc=found.mean, scale=scale)
    else:
        low = high = found.mean
    assert found == pytest.approx((sum(values) / len(values), low, high, len(values)), rel=1e-9)


def test_one_value_has_no_interval():
    assert seeds_interval([0.5]) == (0.5, None, None, 1)


def test_the_interval_is_exact_for_equal_seeds_of_two_worlds():
    # The mean of two draws from {0, 1} is 0, .5 or 1, with 0 and 1 each a quarter of the time.
    assert worlds_interval([[0.0, 0.0], [1.0, 1.0]]) == (0.5, 0.0, 1.0)


def test_the_interval_agrees_with_a_plain_two_level_bootstrap():
    generator = np.random.default_rng(1)
    values = generator.normal(0.1, 0.05, (6, 3))
    means = []
    for _ in range(4000):
        worlds = generator.integers(6, size=6)
        means.append(np.mean([generator.choice(values[world], 3).mean() for world in worlds]))
    expected = [values.mean(), *np.quantile(means, [0.025, 0.975])]
    assert worlds_interval(values.tolist()) == pytest.approx(expected, abs=0.004)
