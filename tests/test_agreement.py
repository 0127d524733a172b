"""Agreement scores against scipy, against counting by hand, and at their edges."""

from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch

from gradsae.influence.at_k import (
    effect_recall_at_k,
    false_negatives_at_k,
    ndcg_at_k,
    recall_after_checks,
)
from gradsae.influence.calibration import calibration_slope, completeness_gap, relative_error
from gradsae.interfaces import Skipped
from gradsae.stats.agreement import (
    kendall_tau_b,
    pearson,
    precision_at_k,
    ranks,
    sign_agreement,
    spearman,
    spearman_abs,
)

MEASURES = {
    "pearson": pearson,
    "spearman": spearman,
    "spearman_abs": spearman_abs,
    "kendall": kendall_tau_b,
    "sign_agreement": sign_agreement,
    "precision_at_3": partial(precision_at_k, k=3),
}
every_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


def tied_vectors(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Small whole numbers, so that both vectors hold many ties."""
    rng = np.random.default_rng(seed)
    estimate, effect = rng.integers(-3, 4, (2, 20)).astype(np.float32)
    return torch.from_numpy(estimate), torch.from_numpy(effect)


@pytest.mark.parametrize("seed", range(20))
def test_correlations_equal_scipys_also_with_ties(seed):
    estimate, effect = tied_vectors(seed)
    expected = scipy.stats.kendalltau(estimate.numpy(), effect.numpy(), variant="b")[0]
    assert kendall_tau_b(estimate, effect) == pytest.approx(expected, abs=1e-12)
    expected = scipy.stats.spearmanr(estimate.numpy(), effect.numpy())[0]
    assert spearman(estimate, effect) == pytest.approx(expected, abs=1e-12)
    expected = scipy.stats.pearsonr(estimate.double().numpy(), effect.double().numpy())[0]
    assert pearson(estimate, effect) == pytest.approx(expected, abs=1e-12)


def test_ranks_equal_scipys_rankdata():
    values = torch.tensor([0.5, -1.0, 0.5, 2.0, -1.0, -1.0])
    np.testing.assert_array_equal(ranks(values).numpy(), scipy.stats.rankdata(values.numpy()))


def test_spearman_does_not_see_a_monotone_change_and_pearson_does():
    effect = torch.linspace(-2, 2, 11)
    assert spearman(effect.exp(), effect) == pytest.approx(1)
    assert pearson(effect.exp(), effect) == pytest.approx(
        np.corrcoef(effect.exp().numpy(), effect.numpy())[0, 1]
    )


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_correlation_does_not_depend_on_the_unit_of_the_effects(size):
    estimate, effect = tied_vectors(0)
    assert pearson(estimate, effect * size) == pytest.approx(pearson(estimate, effect))


def test_an_estimate_without_signs_can_still_rank_the_sizes():
    effect = torch.tensor([1.0, -2.0, 3.0, -4.0])
    assert spearman_abs(torch.tensor([1.0, 2.0, 3.0, 4.0]), effect) == pytest.approx(1)
    assert spearman_abs(-effect, effect) == pytest.approx(1)


def test_sign_agreement_weighs_each_latent_by_its_effect():
    effect = torch.tensor([4.0, -3.0, 2.0, -1.0])
    estimate = torch.tensor([0.1, -0.1, -9.0, 0.0])  # right, right, wrong, no sign
    assert sign_agreement(estimate, effect) == pytest.approx(7 / 10)


def test_precision_counts_the_overlap_of_both_top_sets():
    effect = torch.tensor([9.0, 8.0, 7.0, 1.0, 0.0, -9.0])
    estimate = torch.tensor([3.0, 0.0, 2.0, 1.0, -1.0, 4.0])  # top 3: 5, 0, 2
    assert precision_at_k(estimate, effect, 3) == pytest.approx(2 / 3)


def test_precision_is_about_support_and_not_about_size():
    effect = torch.tensor([1.0, 0.5, 0.1, -5.0, -6.0])
    assert precision_at_k(effect.abs(), effect, 2) == 0
    assert precision_at_k(effect, effect, 2) == 1


def test_any_of_the_latents_that_share_the_last_true_place_is_right():
    effect = torch.tensor([5.0, 2.0, 2.0, 1.0])
    for pick in ([4.0, 3.0, 0.0, 0.0], [4.0, 0.0, 3.0, 0.0]):
        assert precision_at_k(torch.tensor(pick), effect, 2) == 1


@pytest.mark.parametrize("seed", range(5))
def test_tied_estimates_score_what_random_tie_breaking_scores_on_average(seed):
    estimate = tied_vectors(seed)[0]
    effect = torch.randn(20, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(1)
    true = set(effect.topk(5).indices.tolist())
    hits = []
    for _ in range(3000):
        nudged = estimate + 1e-3 * torch.rand(20, generator=generator)
        hits.append(len(true & set(nudged.topk(5).indices.tolist())) / 5)
    assert precision_at_k(estimate, effect, 5) == pytest.approx(np.mean(hits), abs=0.02)


def test_an_estimate_without_a_ranking_has_the_precision_of_chance():
    assert precision_at_k(torch.zeros(40), torch.arange(40.0), 10) == pytest.approx(10 / 40)


@every_measure
@pytest.mark.parametrize("seed", range(5))
def test_no_measure_depends_on_the_order_of_the_latents(measure, seed):
    estimate, effect = tied_vectors(seed)
    effect = effect + torch.arange(20) / 100
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    assert measure(estimate[order], effect[order]) == pytest.approx(measure(estimate, effect))


@every_measure
def test_a_perfect_estimate_scores_one(measure):
    effect = torch.tensor([3.0, -1.0, 2.0, 0.5, -4.0])
    assert measure(effect.clone(), effect) == pytest.approx(1)


@every_measure
def test_no_effect_at_all_is_skipped_with_a_reason(measure):
    outcome = measure(torch.arange(8.0), torch.zeros(8))
    assert isinstance(outcome, Skipped) and outcome.reason


@pytest.mark.parametrize("measure", [pearson, spearman])
def test_a_correlation_with_equal_estimates_is_skipped(measure):
    assert measure(torch.ones(5), torch.arange(5.0)) == Skipped("all estimates are equal")


@every_measure
def test_two_latents_are_too_few(measure):
    assert isinstance(measure(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])), Skipped)


@pytest.mark.parametrize("n", [9, 10])
def test_precision_is_skipped_where_every_ranking_would_be_right(n):
    assert isinstance(precision_at_k(torch.arange(float(n)), torch.arange(float(n)), 10), Skipped)


def test_precision_is_skipped_where_zeros_fill_up_the_true_top():
    effect = torch.tensor([2.0, 1.0, 0.0, 0.0, 0.0, -1.0])
    assert isinstance(precision_at_k(torch.arange(6.0), effect, 3), Skipped)


def test_tau_of_many_latents_is_the_same_in_chunks():
    estimate, effect = torch.randn(2, 600, generator=torch.Generator().manual_seed(0))
    expected = scipy.stats.kendalltau(estimate.numpy(), effect.numpy())[0]
    assert kendall_tau_b(estimate, effect) == pytest.approx(expected, abs=1e-12)


EFFECT = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.0, -1.0, -2.0, -3.0])


def test_effect_recall_is_the_effect_caught_over_the_effect_there_was():
    estimate = EFFECT.clone()
    estimate[1], estimate[3] = 1.0, 4.0  # catches 8 and 1 in place of 8 and 4
    assert effect_recall_at_k(estimate, EFFECT, 2) == pytest.approx(9 / 12)
    assert effect_recall_at_k(-EFFECT, EFFECT, 2) == pytest.approx(-5 / 12)
    tied = torch.ones(11)
    assert effect_recall_at_k(tied, EFFECT, 2) == pytest.approx(2 * EFFECT.mean().item() / 12)


def test_ndcg_discounts_by_place_and_counts_no_harm():
    estimate = EFFECT.clone()
    estimate[0], estimate[1], estimate[10] = 4.0, 8.0, 6.0  # order: 4, -3 (gain 0), 8
    best = 8 + 4 / np.log2(3) + 2 / 2
    assert ndcg_at_k(estimate, EFFECT, 3) == pytest.approx((4 + 0 + 8 / 2) / best)
    assert ndcg_at_k(EFFECT, EFFECT, 3) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_tied_estimates_have_the_ndcg_of_random_tie_breaking(seed):
    estimate, effect = tied_vectors(seed)
    generator = torch.Generator().manual_seed(seed)
    jitter = 1e-3 * torch.rand(4000, 20, generator=generator)
    broken = [ndcg_at_k(estimate + j, effect, 4) for j in jitter]
    mean = float(np.mean([value for value in broken if isinstance(value, float)]))
    assert ndcg_at_k(estimate, effect, 4) == pytest.approx(mean, abs=0.01)


def test_a_false_negative_is_a_true_top_latent_ranked_below_five_k():
    estimate = EFFECT.clone()
    estimate[0] = -10.0  # last of 11, below 5 x 2
    assert false_negatives_at_k(estimate, EFFECT, 2) == pytest.approx(1 / 2)
    estimate[0] = -2.5  # tenth of 11
    assert false_negatives_at_k(estimate, EFFECT, 2) == 0
    short = false_negatives_at_k(EFFECT[:10], EFFECT[:10], 2)
    assert isinstance(short, Skipped) and "no more than 5 x 2" in short.reason


def test_recall_grows_with_the_checks_and_starts_as_precision():
    estimate = EFFECT.clone()
    estimate[1] = -1.5  # the second best stands ninth
    found = [recall_after_checks(estimate, EFFECT, 2, n) for n in (0, 1, 2, 8, 9, 11)]
    assert found == [0.5, 0.5, 0.5, 0.5, 1.0, 1.0]
    assert found[0] == precision_at_k(estimate, EFFECT, 2)


@pytest.mark.parametrize("at_k", [effect_recall_at_k, ndcg_at_k, false_negatives_at_k])
def test_a_top_that_does_not_support_the_target_is_no_top(at_k):
    found = at_k(EFFECT.flip(0), EFFECT - 5, 2)
    assert found == Skipped("fewer than 2 latents support the target")


def test_calibration_is_the_least_squares_line():
    estimate = torch.randn(40, generator=torch.Generator().manual_seed(0))
    effect = 1.7 * estimate + 0.3 * torch.randn(40, generator=torch.Generator().manual_seed(1)) + 5
    expected = np.polyfit(estimate.double().numpy(), effect.double().numpy(), 1)[0]
    assert calibration_slope(estimate, effect) == pytest.approx(expected, rel=1e-6)
    assert calibration_slope(torch.ones(40), effect) == Skipped("all estimates are equal")


def test_relative_error_is_one_for_an_estimate_of_zero():
    assert relative_error(torch.zeros(11), EFFECT) == pytest.approx(1)
    assert relative_error(1.25 * EFFECT, EFFECT) == pytest.approx(0.25)
    assert relative_error(EFFECT, torch.zeros(11)) == Skipped("all true effects are zero")


def test_the_completeness_gap_is_what_the_sum_misses():
    assert completeness_gap(EFFECT, 12.8) == pytest.approx(3.0)
