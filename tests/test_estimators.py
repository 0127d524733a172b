"""What every estimator of influence must satisfy, and oracles on hand-made tails."""

from dataclasses import replace

import pytest
import torch
from tiny_prompts import (
    PlainRerun,
    Windows,
    effects,
    estimate,
    linear_rerun,
    planted,
    quadratic,
    random_sae,
    tiny_lm,
)
from torch import Tensor, nn

from gradsae.influence.estimators.abs_grad import AbsGrad
from gradsae.influence.estimators.contrib.curvature import Curvature
from gradsae.influence.estimators.contrib.grad_drop import GradDrop
from gradsae.influence.estimators.contrib.norm_exact import NormExact
from gradsae.influence.estimators.contrib.norm_frozen import NormFrozen
from gradsae.influence.estimators.contrib.part_then_verify import PartThenVerify
from gradsae.influence.estimators.contrib.path_ig import PathIG
from gradsae.influence.estimators.contrib.relp import RelP
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.hop_then_verify import HopThenVerify
from gradsae.influence.estimators.integrated_gradients import IntegratedGradients
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.estimators.output_score import OutputScore
from gradsae.influence.estimators.positive_mean import PositiveMean
from gradsae.influence.estimators.random import Random
from gradsae.influence.estimators.random_matched import RandomMatched
from gradsae.influence.estimators.released_gradsae import ReleasedGradSAE
from gradsae.influence.estimators.screen_then_verify import ScreenThenVerify
from gradsae.influence.gradient import gradient
from gradsae.influence.target import SCALARS, NextToken
from gradsae.interfaces import Skipped
from gradsae.lm.rerun import Rerun
from gradsae.prompts.seen import SeenPrompt, see_from
from gradsae.seeds import make_generator
from gradsae.stats.agreement import spearman

DRAWING = (Random(), RandomMatched(), Curvature(), PathIG(budget=2))
ESTIMATORS = (
    *(GradTimesAct(), ReleasedGradSAE(), PositiveMean(), AbsGrad(), MeanAct()),
    *(IntegratedGradients(n_points=3), ScreenThenVerify(budget=4), ScreenThenVerify(max_cost=4.0)),
    *(ScreenThenVerify(budget=4, first="both"), PartThenVerify(max_cost=6.0, until=0.6)),
    HopThenVerify(max_cost=6.0),
    *(NormExact(), NormFrozen(), RelP(), RelP(freeze_attention=True), GradDrop(), OutputScore()),
    *DRAWING,
)
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.name)
every_scalar = pytest.mark.parametrize("scalar", SCALARS)


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module")
def source(lm):
    return Windows(lm)


@pytest.fixture(scope="module")
def seen(source) -> SeenPrompt:
    return see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])


def test_on_a_linear_rerun_gradient_times_activation_is_the_effect(generator):
    seen, target = linear_rerun(generator), NextToken(token=2, scalar="logit")
    torch.testing.assert_close(estimate(GradTimesAct(), seen, target), effects(seen, target))


def test_at_the_last_site_without_a_norm_the_gradient_is_exact(lm):
    bare = tiny_lm()
    bare.model.model.norm = nn.Identity()
    source = Windows(bare, "resid_post.3")
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])
    target = NextToken(token=7, scalar="logit_diff", foil=8)
    expected = effects(seen, target)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(
        estimate(GradTimesAct(), seen, target), expected, atol=1e-5, rtol=1e-5
    )


def test_on_a_quadratic_rerun_the_error_is_half_the_curvature(generator):
    """gradient x activation - effect = d H d / 2, with d = what the latent writes."""
    seen, curvature = quadratic(generator, 5)
    target = NextToken(token=0, scalar="logit")
    gap = estimate(GradTimesAct(), seen, target) - effects(seen, target)
    torch.testing.assert_close(gap, curvature / 2)


@every_scalar
def test_gradients_equal_finite_differences(scalar, generator):
    """Positions mix and saturate, as attention does; every entry of the codes, in float64."""
    mixing = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    unembed = torch.randn(6, 9, generator=generator, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        normed = x / x.square().mean(-1, keepdim=True).sqrt()
        return (mixing @ normed.tanh())[:, -1] @ unembed

    seen = planted(
        torch.rand(4, 5, generator=generator, dtype=torch.float64),
        torch.randn(5, 6, generator=generator, dtype=torch.float64),
        function,
        error=0.1,
    )
    target = NextToken(token=3, scalar=scalar, foil=4)
    grad = gradient(seen, target, seen.codes[None])[0]
    step = 1e-6
    for n, c in [(n, c) for n in range(4) for c in range(5)]:
        up, down = seen.codes.clone(), seen.codes.clone()
        up[n, c] += step
        down[n, c] -= step
        value = target.value(seen.rerun.logits(seen.activation(torch.stack([up, down]))))
        assert grad[n, c].item() == pytest.approx(
            (value[0] - value[1]).item() / (2 * step), abs=1e-7, rel=1e-6
        )


@every_scalar
@pytest.mark.parametrize("kind", ["resid_post", "mlp_out", "attn_out"])
def test_gradients_through_a_language_model_equal_finite_differences(lm, scalar, kind):
    source = Windows(lm, f"{kind}.1")
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])
    target = NextToken(token=7, scalar=scalar, foil=8)
    grad = gradient(seen, target, seen.codes[None])[0]
    generator = torch.Generator().manual_seed(1)
    direction = grad / grad.norm() + 0.01 * torch.randn(grad.shape, generator=generator)
    step = 3e-3  # float32: a smaller one drowns in rounding
    codes = torch.stack([seen.codes + step * direction, seen.codes - step * direction])
    with torch.no_grad():
        value = target.value(seen.rerun.logits(seen.activation(codes), [-1]))
    slope = (value[0] - value[1]).item() / (2 * step)
    assert (grad * direction).sum().item() == pytest.approx(slope, rel=2e-2, abs=1e-5)


def test_the_released_score_drops_negative_positions_and_so_ranks_a_cancelling_latent_first():
    """Latent 0 adds 5 at one position and takes 5 at another: no effect. Latent 1 adds 1."""
    weight = torch.tensor([[5.0, 1.0], [-5.0, 0.0]])

    def function(x: Tensor) -> Tensor:
        total = (x * weight).sum((1, 2))
        return torch.stack([total, torch.zeros_like(total)], dim=1)

    seen = planted(torch.ones(2, 2), torch.eye(2), function)
    target = NextToken(token=0)
    truth = effects(seen, target)
    assert truth[0] == 0 and truth[1] > 0.1
    assert estimate(GradTimesAct(), seen, target).argmax() == 1
    assert estimate(ReleasedGradSAE(), seen, target).argmax() == 0


def saturated() -> SeenPrompt:
    """Latent 0 alone keeps the foil (token 1) down; with it down, the foil has no gradient left.

    Logits (target, foil, other): (10, 30 - 40 a0, 5 - 0.2 a1 - 0.1 a2).
    """

    def function(x: Tensor) -> Tensor:
        a = x[:, -1]
        return torch.stack(
            [10 + 0 * a[:, 0], 30 - 40 * a[:, 0], 5 - 0.2 * a[:, 1] - 0.1 * a[:, 2]], dim=1
        )

    return planted(torch.ones(1, 3), torch.eye(3), function)


def test_where_the_softmax_saturates_the_causal_latent_is_ranked_last_and_logit_diff_finds_it():
    seen, target = saturated(), NextToken(token=0)
    assert effects(seen, target).argmax() == 0
    assert effects(seen, target)[0] > 19
    for estimator in (GradTimesAct(), ReleasedGradSAE()):
        assert estimate(estimator, seen, target).argmin() == 0
    found = estimate(GradTimesAct(), seen, NextToken(token=0, scalar="logit_diff", foil=1))
    assert found.argmax() == 0


def test_a_probability_of_one_leaves_the_released_score_without_a_ranking():
    logits = torch.tensor([300.0, 0.0])
    seen = planted(torch.ones(1, 4), torch.eye(4), lambda x: logits + x[:, -1, :2])
    scores = estimate(ReleasedGradSAE(), seen, NextToken(token=0))
    assert spearman(scores, torch.arange(4.0)) == Skipped("all estimates are equal")


def test_mean_activation_counts_all_positions():
    codes = torch.tensor([[0.0, 3.0], [1.0, 0.0], [2.0, 0.0]])
    seen = planted(codes, torch.eye(2), lambda x: x.sum(1))
    assert estimate(MeanAct(), seen, NextToken(token=0)).tolist() == [1.0, 1.0]


def test_random_scores_come_from_the_generator_alone(seen):
    target = NextToken(token=0)
    assert torch.equal(estimate(Random(), seen, target), estimate(Random(), seen, target))
    other = Random().scores(seen, target, make_generator(1, "test"))
    assert not torch.equal(other, estimate(Random(), seen, target))


@every_estimator
def test_every_estimator_scores_every_active_latent(estimator, seen):
    scores = estimate(estimator, seen, NextToken(token=7))
    assert scores.shape == (seen.n_active,) and bool(scores.isfinite().all())


@every_estimator
def test_no_estimator_depends_on_the_order_of_the_latents(estimator, seen):
    if estimator in DRAWING:
        pytest.skip("draws in order")
    order = torch.randperm(seen.n_active, generator=torch.Generator().manual_seed(0))
    shuffled = replace(
        seen,
        latents=seen.latents[order],
        codes=seen.codes[:, order],
        directions=seen.directions[order],
    )
    target = NextToken(token=7)
    torch.testing.assert_close(
        estimate(estimator, shuffled, target),
        estimate(estimator, seen, target)[order],
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("estimator", "n_forwards", "n_backwards"),
    [
        (GradTimesAct(), 1, 1),
        (ReleasedGradSAE(), 1, 1),
        (MeanAct(), 0, 0),
        (Random(), 0, 0),
        (IntegratedGradients(n_points=3), 3, 3),
        (PositiveMean(), 1, 1),
        (AbsGrad(), 1, 1),
        (RandomMatched(), 1, 1),
        (Curvature(n_probes=3), 1 + 6, 1 + 6),
        (PathIG(budget=2, n_points=3), 1 + 2 + 6, 1 + 2 + 6),
        (ScreenThenVerify(budget=2, screen=Curvature()), 1 + 2 + 2 + 1, 1 + 2),
        (ScreenThenVerify(budget=4), 1 + 4 + 1, 1),
        (ScreenThenVerify(budget=99), 1 + 5 + 1, 1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_stated_costs_are_what_is_run(generator, estimator, n_forwards, n_backwards):
    seen = linear_rerun(generator)
    rerun = seen.rerun
    assert isinstance(rerun, PlainRerun)
    estimate(estimator, seen, NextToken(token=0))
    assert rerun.n_rows == n_forwards
    cost = (1 - rerun.fraction) + (n_forwards + 2 * n_backwards) * rerun.fraction
    assert estimator.forward_equivalents(seen) == pytest.approx(cost)


@pytest.mark.parametrize(
    "estimator",
    [
        NormExact(),
        NormFrozen(),
        RelP(),
        RelP(freeze_attention=True),
        GradDrop(),
        OutputScore(batch_rows=4),
    ],
    ids=lambda e: e.name,
)
def test_stated_costs_are_what_is_run_inside_a_model(lm, seen, estimator, monkeypatch):
    """Tokens that the first block after the site runs, and backward passes that reach it."""
    n_pos, f = len(seen.codes), seen.rerun.fraction
    seen.rerun.logits(seen.clean[None], [-1], start=n_pos - 1)  # keeps the clean keys and values
    monkeypatch.setattr(Rerun, "logit_lens", lambda _, rows: torch.zeros(len(rows), lm.vocab_size))
    tokens, backwards = [], []

    def count(_module, _args, output):
        stream = output[0] if isinstance(output, tuple) else output
        tokens.append(stream[..., 0].numel())
        if stream.requires_grad:
            stream.register_hook(lambda _: backwards.append(1))

    handle = lm.model.model.layers[2].register_forward_hook(count)
    estimate(estimator, seen, NextToken(token=7))
    handle.remove()
    assert len(backwards) == {"output_score": 0, "grad_drop": 2}.get(estimator.name, 1)
    cost = 1 - f + (sum(tokens) / n_pos + 2 * len(backwards)) * f
    assert estimator.forward_equivalents(seen) == pytest.approx(cost)


def test_one_midpoint_is_exact_for_one_latent_on_a_quadratic_rerun(generator):
    seen, _ = quadratic(generator, 1)
    target = NextToken(token=0, scalar="logit")
    found = estimate(IntegratedGradients(n_points=1), seen, target)
    torch.testing.assert_close(found, effects(seen, target))


def test_integrated_gradients_add_up_to_the_joint_removal_and_not_to_single_ones(seen):
    """The completeness gap closes as the midpoints grow; single effects do not add up."""
    target = NextToken(token=7, scalar="log_prob")
    with torch.no_grad():
        both = seen.activation(torch.stack([seen.codes, torch.zeros_like(seen.codes)]))
        value = target.value(seen.rerun.logits(both, [-1]))
    joint = (value[0] - value[1]).item()
    gaps = [
        abs(estimate(IntegratedGradients(n_points=n), seen, target).sum().item() - joint)
        for n in (4, 256)
    ]
    assert gaps[1] < 0.02 * abs(joint)
    assert gaps[1] < gaps[0]
    assert abs(effects(seen, target).sum().item() - joint) > 0.1 * abs(joint)


def test_where_the_softmax_saturates_integrated_gradients_find_the_causal_latent():
    seen, target = saturated(), NextToken(token=0)
    assert estimate(IntegratedGradients(n_points=8), seen, target).argmax() == 0


def test_verified_scores_are_the_truth_and_the_rest_is_the_gradient(seen):
    target = NextToken(token=7)
    screen, truth = estimate(GradTimesAct(), seen, target), effects(seen, target)
    found = estimate(ScreenThenVerify(budget=4), seen, target)
    checked = torch.zeros(seen.n_active, dtype=torch.bool)
    checked[screen.topk(4).indices] = True
    torch.testing.assert_close(found[checked], truth[checked], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[~checked], screen[~checked])
