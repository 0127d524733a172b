"""Oracles of the estimators that check, correct or control the gradient."""

from dataclasses import replace

import pytest
import torch
from tiny_prompts import (
    Windows,
    effects,
    estimate,
    linear_rerun,
    planted,
    quadratic,
    random_sae,
    tiny_lm,
)
from torch import Tensor

from gradsae.influence.estimators.abs_grad import AbsGrad
from gradsae.influence.estimators.contrib.curvature import Curvature, reliability, self_curvature
from gradsae.influence.estimators.contrib.path_ig import PathIG, path_scores
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.integrated_gradients import IntegratedGradients
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.estimators.output_score import OutputScore
from gradsae.influence.estimators.positive_mean import PositiveMean
from gradsae.influence.estimators.random_matched import RandomMatched
from gradsae.influence.estimators.released_gradsae import ReleasedGradSAE
from gradsae.influence.estimators.screen_then_verify import ScreenThenVerify, alternate
from gradsae.influence.target import NextToken
from gradsae.prompts.seen import SeenPrompt, see_from
from gradsae.seeds import make_generator


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module")
def seen(lm) -> SeenPrompt:
    source = Windows(lm)
    return see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])


def test_what_is_paid_for_is_verified_and_no_more(seen):
    """Screen 1 + 2 s, the unedited row s, then latents at s x the positions they are open on."""
    fraction, target = seen.rerun.fraction, NextToken(token=7)
    screen, truth = estimate(GradTimesAct(), seen, target), effects(seen, target)
    order = screen.argsort(descending=True)
    price = fraction * (1 - seen.first_open(order) / len(seen.codes))
    max_cost = 1 + 3 * fraction + price[:3].sum().item() + 0.01
    estimator = ScreenThenVerify(max_cost=max_cost)
    found = estimate(estimator, seen, target)
    torch.testing.assert_close(found[order[:3]], truth[order[:3]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[order[3:]], screen[order[3:]])
    assert estimator.forward_equivalents(seen) == pytest.approx(max_cost)
    everything = ScreenThenVerify(max_cost=1000.0)
    torch.testing.assert_close(estimate(everything, seen, target), truth, atol=1e-5, rtol=1e-5)
    assert everything.forward_equivalents(seen) < 100
    too_little = ScreenThenVerify(max_cost=1.5)
    torch.testing.assert_close(estimate(too_little, seen, target), screen)


def test_two_orders_are_merged_in_turn_and_each_thing_comes_once():
    one, other = torch.tensor([3, 1, 0, 2]), torch.tensor([2, 3, 1, 0])
    assert alternate(one, other).tolist() == [3, 2, 1, 0]


def test_with_both_orders_the_largest_latents_are_checked_too():
    """Latent 1 is large and bent: slope 0 at its value, effect 9. Latents 0 and 2 are straight."""

    def function(x: Tensor) -> Tensor:
        a = x[:, -1]
        return (0.5 * a[:, 0] + 0.2 * a[:, 2] + 9 - (a[:, 1] - 3) ** 2)[:, None]

    seen = planted(torch.tensor([[1.0, 3.0, 1.0]]), torch.eye(3), function)
    target = NextToken(token=0, scalar="logit")
    truth = torch.tensor([0.5, 9.0, 0.2])
    assert estimate(ScreenThenVerify(budget=2), seen, target)[1] == 0
    by_size = ScreenThenVerify(budget=1, first="size")
    torch.testing.assert_close(estimate(by_size, seen, target)[1], truth[1])
    assert by_size.name == "screen_by_size_verify_1"
    both = ScreenThenVerify(budget=2, first="both")
    torch.testing.assert_close(estimate(both, seen, target), truth)
    assert both.name == "screen_size_verify_2"


def test_a_latent_that_opens_late_is_checked_before_a_larger_one_that_is_dearer():
    """No gradient in either; latent 0 writes 2 from the first position on, latent 1 in the last."""
    codes = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    seen = planted(codes, torch.eye(2), lambda x: ((x - codes) ** 2).sum(1) @ torch.ones(2, 1))
    target = NextToken(token=0, scalar="logit")
    found = estimate(ScreenThenVerify(budget=1, first="size"), seen, target)
    torch.testing.assert_close(found, torch.tensor([0.0, -1.0]))


def test_a_screen_without_units_cannot_share_a_list_with_effects():
    with pytest.raises(ValueError, match="in units of the target, got mean_act"):
        ScreenThenVerify(screen=MeanAct())


def test_with_one_latent_the_curvature_makes_a_quadratic_exact(generator):
    seen, curvature = quadratic(generator, 1)
    target = NextToken(token=0, scalar="logit")
    torch.testing.assert_close(estimate(Curvature(), seen, target), effects(seen, target))
    found = self_curvature(seen, target, 1, make_generator(0, "test"))
    torch.testing.assert_close(found, curvature)
    ratio = reliability(estimate(GradTimesAct(), seen, target), found)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.5))  # x H x / 2: no linear part


def test_probes_average_to_the_curvature_of_each_latent_alone(generator):
    """Other latents come in with random signs: their share falls as one over root probes."""
    seen, curvature = quadratic(generator, 4)
    target = NextToken(token=0, scalar="logit")
    found = self_curvature(seen, target, 400, make_generator(0, "test"))
    size = curvature.norm()
    assert (found - curvature).norm() < 0.15 * size
    one = self_curvature(seen, target, 1, make_generator(0, "test"))
    assert (one - curvature).norm() > 0.3 * size


def test_a_latents_own_path_leads_to_its_ablation_and_not_to_a_share(seen):
    target, columns = NextToken(token=7), torch.arange(5)
    truth = effects(seen, target)[:5]
    gaps = [(path_scores(seen, target, columns, n) - truth).norm().item() for n in (1, 8)]
    assert gaps[1] < 0.1 * gaps[0] and gaps[1] < 0.02 * truth.norm().item()
    joint = estimate(IntegratedGradients(n_points=8), seen, target)[:5]
    assert (joint - truth).norm() > 20 * gaps[1]


def test_flagged_latents_are_integrated_and_the_rest_is_the_gradient(seen):
    target = NextToken(token=7)
    screen, found = estimate(GradTimesAct(), seen, target), estimate(PathIG(budget=3), seen, target)
    changed = (found != screen).nonzero()[:, 0]
    assert len(changed) == 3
    torch.testing.assert_close(found[changed], path_scores(seen, target, changed, 2))


def test_matched_random_keeps_the_scores_and_loses_their_places(generator):
    seen = linear_rerun(generator)
    target = NextToken(token=0)
    screen = estimate(GradTimesAct(), seen, target)
    found = estimate(RandomMatched(group=5), seen, target)
    torch.testing.assert_close(found.sort().values, screen.sort().values)
    written = (seen.codes.norm(dim=0) * seen.directions.norm(dim=1)).argsort()
    pairs = estimate(RandomMatched(group=2), seen, target)
    for pair in written.split(2):
        torch.testing.assert_close(pairs[pair].sort().values, screen[pair].sort().values)


def test_the_positive_mean_keeps_what_the_released_order_inflates():
    """Positions +5 and -4 average to 0.5; with the ReLU first they make 2.5, above a steady 1."""
    weight = torch.tensor([[5.0, 1.0, -1.0], [-4.0, 1.0, -1.0]])

    def function(x: Tensor) -> Tensor:
        total = (x * weight).sum((1, 2)) / 100
        return torch.stack([total, torch.zeros_like(total)], dim=1)

    seen, target = planted(torch.ones(2, 3), torch.eye(3), function), NextToken(token=0)
    found = estimate(PositiveMean(), seen, target)
    assert found.argmax() == 1 and found[2] == 0
    torch.testing.assert_close(found[0] / found[1], torch.tensor(0.5))
    assert estimate(ReleasedGradSAE(), seen, target).argmax() == 0
    sizes = estimate(AbsGrad(), seen, target)
    torch.testing.assert_close(sizes / sizes[1], torch.tensor([4.5, 1.0, 1.0]))


def test_the_output_score_is_high_where_a_latent_brings_out_what_it_reads_as(lm):
    """Last site: a direction that is one token's unembedding raises it; random ones do nothing."""
    source = Windows(lm, "resid_post.3")
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])
    directions = 1e-3 * torch.randn_like(seen.directions)
    directions[2] = lm.model.lm_head.weight[65] * lm.model.model.norm.weight
    seen = replace(seen, codes=torch.ones_like(seen.codes), directions=directions)
    found = estimate(OutputScore(n_tokens=1, dose=200.0), seen, NextToken(token=0))
    assert found.argmax() == 2 and found[2] > 0.5
    assert bool((found[torch.arange(seen.n_active) != 2].abs() < 0.1).all())
