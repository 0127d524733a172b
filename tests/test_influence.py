"""Influence: oracles on hand-made tails, a plain hook loop, costs, and the task as a whole."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from tiny_prompts import PlainTail, Windows, planted, random_sae, tiny_lm
from torch import Tensor, nn

from gradsae.errors import UserError
from gradsae.influence.ablation import N_JITTERED, ablate, rounding_noise
from gradsae.influence.agreement import spearman
from gradsae.influence.case import Case, Question, Settings, chosen_columns, compare, study
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.gradient import gradient
from gradsae.influence.estimators.integrated_gradients import IntegratedGradients
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.estimators.random import Random
from gradsae.influence.estimators.released_gradsae import ReleasedGradSAE
from gradsae.influence.estimators.screen_then_verify import ScreenThenVerify
from gradsae.influence.target import SCALARS, NextToken, Scalar, runner_up
from gradsae.influence.task import Influence
from gradsae.interfaces import Scores, Skipped
from gradsae.prompt import SeenPrompt, see_from
from gradsae.prompts import CutPrompts, Prompt
from gradsae.schema import MAX_SERIES_VALUES, SCORE_NAME
from gradsae.seeds import make_generator
from gradsae.sources.superposition import Superposition

ESTIMATORS = (GradTimesAct(), ReleasedGradSAE(), MeanAct(), Random())
ALL_ESTIMATORS = (*ESTIMATORS, IntegratedGradients(n_points=3), ScreenThenVerify(budget=4))
every_estimator = pytest.mark.parametrize("estimator", ALL_ESTIMATORS, ids=lambda e: e.name)
every_scalar = pytest.mark.parametrize("scalar", SCALARS)
KINDS = ("resid_post", "mlp_out", "attn_out")


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module")
def source(lm):
    return Windows(lm)


@pytest.fixture(scope="module")
def seen(source) -> SeenPrompt:
    return see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])


def effects(seen: SeenPrompt, target: NextToken, batch_rows: int = 8) -> Tensor:
    columns = torch.arange(seen.n_active)
    return ablate(seen, target, columns, batch_rows=batch_rows).effect


def estimate(estimator: Any, seen: SeenPrompt, target: NextToken) -> Tensor:
    return estimator.scores(seen, target, make_generator(0, "test"))


def linear_tail(generator: torch.Generator) -> SeenPrompt:
    """Three positions, five latents; the logits are a linear map of all positions."""
    unembed = torch.randn(3, 6, 7, generator=generator, dtype=torch.float64)
    return planted(
        torch.rand(3, 5, generator=generator, dtype=torch.float64),
        torch.randn(5, 6, generator=generator, dtype=torch.float64),
        lambda x: torch.einsum("bpd, pdv -> bv", x, unembed),
        error=0.3,
    )


# --- targets ------------------------------------------------------------------------------------


def test_scalars_of_two_tokens_follow_from_the_logistic_function():
    logits = torch.tensor([[[2.0, 0.5]]])
    p = 1 / (1 + math.exp(-1.5))
    expected: dict[Scalar, float] = {"logit": 2.0, "prob": p, "log_prob": math.log(p)}
    expected["logit_diff"] = 1.5
    for scalar, value in expected.items():
        target = NextToken(token=0, scalar=scalar, foil=1)
        assert target.value(logits).item() == pytest.approx(value)


def test_the_foil_is_the_best_other_token():
    assert runner_up(torch.tensor([0.0, 3.0, 2.0]), 1) == 2
    assert runner_up(torch.tensor([0.0, 3.0, 2.0]), 0) == 1


@pytest.mark.parametrize("foil", [None, 3])
def test_a_difference_needs_another_token(foil):
    with pytest.raises(ValueError, match="needs a foil other than the token"):
        NextToken(token=3, scalar="logit_diff", foil=foil)


# --- truth --------------------------------------------------------------------------------------


def hook_loop(lm, module: nn.Module, seen: SeenPrompt, sae, token: int) -> list[float]:
    """One full forward per latent; the codes are worked out anew, entry by entry."""
    with torch.no_grad():
        pre = (seen.clean - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    codes = torch.zeros_like(pre)
    for row, values in enumerate(pre):
        if row > 0:  # position 0 is dropped
            top = values.topk(sae.arch.k)
            codes[row, top.indices] = top.values.relu()

    def log_prob(change: Tensor) -> float:
        def hook(_module, _args, output):
            if isinstance(output, tuple):
                return (output[0] + change, *output[1:])
            return output + change

        handle = module.register_forward_hook(hook)
        with torch.no_grad():
            logits = lm.model(input_ids=seen.token_ids[None], use_cache=False).logits[0, -1]
        handle.remove()
        return logits.double().log_softmax(0)[token].item()

    clean = log_prob(torch.zeros(1))
    return [
        clean - log_prob(-codes[:, latent, None] * sae.W_dec[latent].detach())
        for latent in codes.any(0).nonzero()[:, 0].tolist()
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_rows", [2, 32])
def test_fast_ablation_equals_a_plain_loop_with_torch_hooks(lm, kind, batch_rows):
    source, sae = Windows(lm, f"{kind}.1"), random_sae()
    seen = see_from(source, sae, source.eval_windows(1, 0)[0][:10])
    block = lm.model.model.layers[1]
    module = {"resid_post": block, "mlp_out": block.mlp, "attn_out": block.self_attn}[kind]
    expected = torch.tensor(hook_loop(lm, module, seen, sae, token=7))
    found = effects(seen, NextToken(token=7), batch_rows)
    assert expected.abs().max() > 0.1  # the edits do something
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5, check_dtype=False)


def test_a_latent_that_writes_the_targets_unembedding_has_a_positive_effect(lm):
    """Last site, before the final norm: the one direction that can only help the token."""
    token, source = 65, Windows(lm, "resid_post.3")
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])
    codes = torch.zeros_like(seen.codes)
    codes[-1] = 1
    directions = torch.randn_like(seen.directions) * 1e-3
    directions[4] = lm.model.lm_head.weight[token] * lm.model.model.norm.weight
    directions[5] = -directions[4]
    seen = replace(seen, codes=codes, directions=directions)
    target = NextToken(token=token)
    for scores in (effects(seen, target), estimate(GradTimesAct(), seen, target)):
        assert scores.argmax() == 4 and scores[4] > 0
        assert scores.argmin() == 5 and scores[5] < 0
    released = estimate(ReleasedGradSAE(), seen, target)
    assert released.argmax() == 4 and released[5] == 0


def test_effects_go_with_their_latents(seen):
    target = NextToken(token=7)
    order = torch.randperm(seen.n_active, generator=torch.Generator().manual_seed(0))
    found = ablate(seen, target, order, batch_rows=8).effect
    torch.testing.assert_close(found, effects(seen, target)[order], atol=1e-5, rtol=1e-5)


def test_what_differs_between_batches_cancels_in_the_effects():
    jitter = iter([0.25, -0.5])  # first batch, second batch

    def function(x: Tensor) -> Tensor:
        return x.sum((1, 2))[:, None] + next(jitter)

    seen = planted(torch.ones(1, 4), torch.ones(4, 1), function)
    found = ablate(seen, NextToken(token=0, scalar="logit"), torch.arange(4), batch_rows=3)
    assert found.effect.tolist() == [1, 1, 1, 1]
    assert found.n_rows == 4 + 2


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, 2.0**-23), (torch.bfloat16, 2.0**-7)])
def test_noise_is_that_of_random_rounding_in_the_models_dtype(dtype, eps):
    """A sum of 2,000 ones, each off by u eps with |u| < 1: variance about eps^2 / 3 each."""
    seen = planted(torch.ones(20, 1), torch.ones(1, 100), torch.sum)
    tail = PlainTail(torch.ones(20, 100, dtype=dtype), lambda x: x.double().sum((1, 2))[:, None])
    noise = rounding_noise(
        replace(seen, suffix=tail), NextToken(token=0, scalar="logit"), make_generator(0, "test")
    )
    expected = eps * math.sqrt(2000 / 3)
    assert expected / 2 < noise < expected * 2


def test_bfloat16_drowns_the_effects_that_float32_resolves(lm, source):
    low = tiny_lm()
    low.model.bfloat16()
    high, rough = (TASK.measure(random_sae(), Windows(m), 0) for m in (lm, low))
    assert isinstance(high, Scores) and isinstance(rough, Scores)
    assert high.scores["influence/above_noise"] > 0.99
    assert rough.scores["influence/noise_floor"] > 1000 * high.scores["influence/noise_floor"]


def test_non_finite_logits_are_an_error(lm, seen):
    broken = planted(torch.ones(2, 3), torch.ones(3, 2), lambda x: x.sum(1) / 0)
    for run in (effects, lambda s, t: estimate(GradTimesAct(), s, t)):
        with pytest.raises(UserError, match="not a finite number"):
            run(broken, NextToken(token=0, scalar="logit"))
    sick = tiny_lm()
    sick.model.lm_head.weight.data[3] = math.inf
    with pytest.raises(UserError, match="logits are not finite"):
        Influence(prompts=CutPrompts(n_prompts=1, length=8), estimators=ESTIMATORS).measure(
            random_sae(), Windows(sick), 0
        )


# --- estimators ---------------------------------------------------------------------------------


def test_on_a_linear_tail_gradient_times_activation_is_the_effect(generator):
    seen, target = linear_tail(generator), NextToken(token=2, scalar="logit")
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


def test_on_a_quadratic_tail_the_error_is_half_the_curvature(generator):
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
        value = target.value(seen.suffix.logits(seen.activation(torch.stack([up, down]))))
        assert grad[n, c].item() == pytest.approx(
            (value[0] - value[1]).item() / (2 * step), abs=1e-7, rel=1e-6
        )


@every_scalar
@pytest.mark.parametrize("kind", KINDS)
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
        value = target.value(seen.suffix.logits(seen.activation(codes), [-1]))
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
    if isinstance(estimator, Random):
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
        (ScreenThenVerify(budget=4), 1 + 4 + 1, 1),
        (ScreenThenVerify(budget=99), 1 + 5 + 1, 1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_stated_costs_are_what_is_run(generator, estimator, n_forwards, n_backwards):
    seen = linear_tail(generator)
    tail = seen.suffix
    assert isinstance(tail, PlainTail)
    estimate(estimator, seen, NextToken(token=0))
    assert tail.n_rows == n_forwards
    cost = (1 - tail.fraction) + (n_forwards + 2 * n_backwards) * tail.fraction
    assert estimator.forward_equivalents(seen) == pytest.approx(cost)


def quadratic(generator: torch.Generator, n_active: int) -> tuple[SeenPrompt, Tensor]:
    """m = x H x / 2, no error term; and what each latent writes, summed over positions."""
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    hessian = root @ root.T
    seen = planted(
        torch.rand(3, n_active, generator=generator, dtype=torch.float64),
        torch.randn(n_active, 6, generator=generator, dtype=torch.float64),
        lambda x: torch.einsum("bpd, de, bqe -> b", x, hessian, x)[:, None] / 2,
    )
    written = seen.codes.sum(0)[:, None] * seen.directions
    return seen, torch.einsum("ad, de, ae -> a", written, hessian, written)


def test_one_midpoint_is_exact_for_one_latent_on_a_quadratic_tail(generator):
    seen, _ = quadratic(generator, 1)
    target = NextToken(token=0, scalar="logit")
    found = estimate(IntegratedGradients(n_points=1), seen, target)
    torch.testing.assert_close(found, effects(seen, target))


def test_integrated_gradients_add_up_to_the_joint_removal_and_not_to_single_ones(seen):
    """The completeness gap closes as the midpoints grow; single effects do not add up."""
    target = NextToken(token=7, scalar="log_prob")
    with torch.no_grad():
        both = seen.activation(torch.stack([seen.codes, torch.zeros_like(seen.codes)]))
        value = target.value(seen.suffix.logits(both, [-1]))
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


# --- one prompt ---------------------------------------------------------------------------------


def case_of(seen: SeenPrompt, **changes: Any) -> Case:
    prompt = Prompt(token_ids=seen.token_ids, target=0, text="", origin="here")
    question = Question(prompt, NextToken(token=0), target_prob=0.5)
    settings = Settings(ESTIMATORS, ks=(3,), batch_rows=4, max_latents=None, seed=0)
    return study(seen, question, 0, settings._replace(**changes))


def test_a_case_reports_every_run_of_the_suffix(generator):
    """Five latents in batches of 3 + 1, two gradients, the noise; one clean pass went before."""
    seen = linear_tail(generator)
    case = case_of(seen)
    tail = seen.suffix
    assert isinstance(tail, PlainTail)
    assert tail.n_rows == (5 + 2) + 2 + (1 + N_JITTERED)
    n_backwards, n_callers = 2, 1
    assert case.spent == pytest.approx(
        (1 - tail.fraction) + (tail.n_rows + n_callers + 2 * n_backwards) * tail.fraction
    )
    assert case.cost["ablation"] == pytest.approx(1 + 5 * tail.fraction)


def test_a_random_part_of_the_latents_keeps_its_effects_and_has_no_precision(generator):
    seen = linear_tail(generator)
    part, whole = case_of(seen, max_latents=4), case_of(seen)
    assert len(part.effect) == 4 and part.n_active == 5
    places = torch.isin(whole.latents, part.latents)
    torch.testing.assert_close(part.effect, whole.effect[places])
    for name in part.estimates:
        torch.testing.assert_close(part.estimates[name], whole.estimates[name][places])
    assert isinstance(part.agreement["precision_at_3/mean_act"], Skipped)
    assert isinstance(part.agreement["spearman/mean_act"], float)


def test_chosen_columns_are_all_or_a_seeded_part():
    generator = make_generator(0, "test")
    assert chosen_columns(4, None, generator).tolist() == [0, 1, 2, 3]
    part = chosen_columns(100, 7, make_generator(0, "test"))
    assert len(part.unique()) == 7
    assert torch.equal(part, chosen_columns(100, 7, make_generator(0, "test")))


def test_the_truth_agrees_with_itself():
    effect = torch.randn(30, generator=torch.Generator().manual_seed(0))
    found = compare({"itself": effect}, effect, ks=(10,), n_active=30)
    measures = ["spearman", "spearman_abs", "pearson", "sign_agreement", "precision_at_10"]
    assert set(found) == {f"{measure}/itself" for measure in measures}
    assert list(found.values()) == [pytest.approx(1)] * 5


# --- the task -----------------------------------------------------------------------------------


TASK = Influence(
    prompts=CutPrompts(n_prompts=4, length=10), estimators=ESTIMATORS, ks=(3, 50), batch_rows=16
)


@pytest.fixture(scope="module")
def scores(source) -> Scores:
    outcome = TASK.measure(random_sae(), source, 0)
    assert isinstance(outcome, Scores)
    return outcome


def test_scores_carry_names_counts_and_intervals(scores):
    for name in ("spearman", "spearman_abs", "pearson", "sign_agreement", "precision_at_3"):
        for estimator in ESTIMATORS:
            full = f"influence/{name}/{estimator.name}"
            low, high = scores.intervals[full]
            assert low <= scores.scores[full] <= high
            assert scores.n[full] == 4
    assert all(SCORE_NAME.fullmatch(name) for name in scores.scores)
    assert all(math.isfinite(value) for value in scores.scores.values())
    assert not set(scores.scores) & set(scores.skipped)
    assert scores.n["influence/prompts"] == 4


def test_a_score_that_no_prompt_has_is_skipped_with_the_reason(scores):
    assert "no more than 50 active latents" in scores.skipped["influence/precision_at_50/random"]
    rows = scores.series["influence/left_out"]
    place = rows["score"].index("influence/precision_at_50/random")
    assert rows["n_prompts"][place] == 4


def test_means_are_over_the_prompts_of_the_table(scores):
    table = scores.series["influence/per_prompt"]
    for estimator in ESTIMATORS:
        column = table[f"spearman.{estimator.name}"]
        mean = scores.scores[f"influence/spearman/{estimator.name}"]
        assert mean == pytest.approx(sum(column) / 4)


def test_tables_fit_a_record(scores):
    for table in scores.series.values():
        assert len({len(column) for column in table.values()}) == 1
        assert sum(len(column) for column in table.values()) <= MAX_SERIES_VALUES
    scatter = scores.series["influence/scatter"]
    assert set(scatter) == {"prompt", "latent", "effect", *(e.name for e in ESTIMATORS)}
    assert len(scatter["effect"]) == sum(scores.series["influence/per_prompt"]["n_active"])


def test_the_scatter_holds_a_part_if_there_is_too_much(source):
    outcome = replace(TASK, n_scatter=20).measure(random_sae(), source, 0)
    assert isinstance(outcome, Scores)
    assert len(outcome.series["influence/scatter"]["effect"]) == 20


def test_the_same_seed_gives_the_same_scores_and_another_seed_does_not(source, scores):
    assert TASK.measure(random_sae(), source, 0) == scores
    other = TASK.measure(random_sae(), source, 1)
    assert isinstance(other, Scores) and other.scores != scores.scores


def test_adding_an_estimator_leaves_the_others_scores_alone(source, scores):
    fewer = replace(TASK, estimators=ESTIMATORS[2:]).measure(random_sae(), source, 0)
    assert isinstance(fewer, Scores)
    assert {name: scores.scores[name] for name in fewer.scores} == fewer.scores


def test_the_gradient_costs_less_than_the_truth(scores):
    fraction = 2 / 4  # two of four blocks follow the site
    assert scores.scores["influence/cost/grad_times_act"] == pytest.approx(1 + 2 * fraction)
    n_active = scores.scores["influence/n_active"]
    assert scores.scores["influence/cost/ablation"] == pytest.approx(1 + n_active * fraction)
    assert scores.forward_equivalents > 4 * (1 + n_active * fraction)


@pytest.mark.parametrize("scalar", SCALARS)
def test_every_scalar_runs(source, scalar):
    outcome = replace(TASK, scalar=scalar).measure(random_sae(), source, 0)
    assert isinstance(outcome, Scores)
    assert outcome.scores["influence/spearman/grad_times_act"] > 0


def test_one_prompt_has_scores_but_no_interval(source):
    task = replace(TASK, prompts=CutPrompts(n_prompts=1, length=10))
    outcome = task.measure(random_sae(), source, 0)
    assert isinstance(outcome, Scores)
    assert outcome.scores and not outcome.intervals


def test_a_source_without_a_model_is_skipped():
    source = Superposition(n_features=8, width=4, l0=2)
    outcome = TASK.measure(random_sae(), source, 0)
    assert isinstance(outcome, Skipped) and "no language model" in outcome.reason


def test_an_sae_that_never_fires_is_skipped(source):
    dead = random_sae()
    with torch.no_grad():
        dead.W_enc.zero_()
        dead.b_enc.fill_(-1)
    outcome = TASK.measure(dead, source, 0)
    assert outcome == Skipped("no latent fires on any of 4 prompts")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ks", (0,), "ks must be a whole number from 1, got 0"),
        ("batch_rows", 1, "batch_rows must be a whole number from 2, got 1"),
        ("max_latents", 2, "max_latents must be a whole number from 3, got 2"),
        ("estimators", (), "estimators must be at least one"),
        ("estimators", (MeanAct(), MeanAct()), "each once; got"),
    ],
)
def test_bad_fields_are_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(TASK, **{field: value})


@pytest.mark.parametrize("name", ["default", "quick"])
def test_the_yaml_files_build_the_four_estimators(name, request):
    file = request.config.rootpath / "conf" / "influence" / f"{name}.yaml"
    task = instantiate(yaml.safe_load(file.read_text()))
    assert [e.name for e in task.estimators] == [e.name for e in ESTIMATORS]
