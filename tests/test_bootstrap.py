"""Bootstrap over prompts: agrees with scipy, and pairs the scores of the same prompts."""

import numpy as np
import pytest
import scipy.stats
import torch

from gradsae.seeds import make_generator
from gradsae.stats.bootstrap import mean_interval, percentiles, resampled_means


def test_bootstrap_interval_agrees_with_scipy():
    values = torch.randn(30, generator=make_generator(0, "values")).double()
    theirs = scipy.stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=9999, method="percentile", rng=0
    ).confidence_interval
    np.testing.assert_allclose(mean_interval(values, 0), theirs, atol=0.03)


def test_bootstrap_draws_scores_of_the_same_prompts_together():
    values = torch.rand(12, 1, generator=make_generator(0, "values"))
    both = resampled_means(torch.cat([values, 3 * values], 1), 5)
    torch.testing.assert_close(both[:, 1], 3 * both[:, 0])
    low, high = percentiles(both)
    torch.testing.assert_close(low[1], 3 * low[0])
    assert bool((low < high).all())


def test_bootstrap_of_one_prompt_is_refused():
    with pytest.raises(ValueError, match="at least 2 prompts, got 1"):
        mean_interval(torch.ones(1), 0)
