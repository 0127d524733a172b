"""Truths against direct evaluation, brute force and closed forms; scalars that share their runs."""

import itertools
import math
from typing import Any

import pytest
import torch
from tiny_prompts import PlainRerun, Windows, effects, linear_rerun, planted, random_sae, tiny_lm
from torch import Tensor

from gradsae.influence.ablation import ablate_all
from gradsae.influence.estimators.contrib.curvature import Curvature
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.target import Answer, KLToClean, NextToken, make_target
from gradsae.influence.truth import PreparedTruth, PromptContext, Singles, Truth
from gradsae.influence.truths.baseline import Baseline, codes_of
from gradsae.influence.truths.dose import Dose, typical_write
from gradsae.influence.truths.entry import Entry
from gradsae.influence.truths.joint import Joint, Sets
from gradsae.influence.truths.shapley import Shapley
from gradsae.interfaces import HeldOut, Skipped
from gradsae.prompts.seen import SeenPrompt, see_from
from gradsae.sae.model import SAE
from gradsae.seeds import make_generator

TARGET = NextToken(token=7)
LOGIT = NextToken(token=0, scalar="logit")


class Held(Windows):
    """With held-out activations, as mean and resample baselines need."""

    def held_out(self, n: int, seed: int) -> HeldOut:
        return HeldOut(torch.randn(n, 32, generator=make_generator(seed, "test held out")))


@pytest.fixture(scope="module")
def sae() -> SAE:
    return random_sae()


@pytest.fixture(scope="module")
def context(sae) -> PromptContext:
    source = Held(tiny_lm())
    seen = see_from(source, sae, source.eval_windows(1, 0)[0][:8])
    kept = torch.ones(8, dtype=torch.bool)
    kept[0] = False
    return PromptContext(seen=seen, is_kept=kept, sae=sae, source=source, seed=0, max_units=None)


def prepared(truth: Truth, context: PromptContext) -> PreparedTruth:
    found = truth.prepare(context, make_generator(0, "test"))
    assert isinstance(found, PreparedTruth)
    return found


def effect_of(truth: Truth, context: PromptContext) -> Tensor:
    return prepared(truth, context).measure([TARGET], batch_rows=16).effect[0]


@torch.no_grad()
def value(
    context: PromptContext, codes: Tensor | None = None, change: Tensor | None = None
) -> float:
    seen = context.seen
    activation = seen.activation(seen.codes if codes is None else codes)
    activation = activation if change is None else activation + change
    return TARGET.value(seen.rerun.logits(activation[None], [-1])).item()


def test_one_entry_is_one_latent_at_one_position(context):
    seen, found = context.seen, effect_of(Entry(), context)
    entries = [(n, c) for c in range(seen.n_active) for n in range(8) if seen.codes[n, c] > 0]
    assert len(found) == len(entries) > seen.n_active
    for place in (0, 3, len(entries) - 1):
        codes = seen.codes.clone()
        codes[entries[place]] = 0
        expected = value(context) - value(context, codes)
        assert found[place].item() == pytest.approx(expected, abs=1e-5)


def test_gradient_times_activation_of_a_latent_is_that_of_its_entries_together(context):
    split = prepared(Entry(), context)
    parts = GradTimesAct().scores(split.seen, TARGET, make_generator(0, "test"))
    whole = GradTimesAct().scores(context.seen, TARGET, make_generator(0, "test"))
    summed = torch.zeros(64).scatter_add_(0, split.seen.latents, parts)[context.seen.latents]
    torch.testing.assert_close(summed, whole, atol=1e-5, rtol=1e-4)


def test_the_mean_baseline_moves_a_latent_to_its_mean_on_held_out_text(context, sae):
    seen, found = context.seen, effect_of(Baseline(kind="mean", n_rows=50), context)
    mean = codes_of(sae, context.source.held_out(50, 0).x, seen.latents).mean(0)
    assert mean.min() >= 0 and mean.max() > 0
    for column in (0, 5):
        codes = seen.codes.clone()
        codes[1:, column] = mean[column]  # position 0 is not the SAE's to edit
        assert found[column].item() == pytest.approx(
            value(context) - value(context, codes), abs=1e-5
        )


def test_codes_of_some_latents_are_those_of_the_whole_sae(sae):
    x = torch.randn(20, 32, generator=torch.Generator().manual_seed(3))
    pre = (x - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    top = pre.topk(5)
    dense = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    latents = torch.tensor([3, 17, 40, 63])
    torch.testing.assert_close(codes_of(sae, x, latents), dense[:, latents].detach())


def test_resampling_from_rows_that_are_all_the_same_is_that_baseline(context, sae):
    row = context.source.held_out(1, 0).x
    drawn = prepared(Baseline(kind="resample", n_rows=1), context)
    expected = context.seen.codes[1:] - codes_of(sae, row, context.seen.latents)
    torch.testing.assert_close(drawn.seen.codes[1:], expected)


def test_a_dose_pushes_every_latent_equally_hard_and_the_silent_ones_too(context, sae):
    dose = prepared(Dose(dose=0.5, n_inactive=6), context)
    assert isinstance(dose, Singles)
    found = dose.measure([TARGET], batch_rows=16).effect[0]
    assert len(dose.columns) == context.seen.n_active + 6
    size = 0.5 * typical_write(context.seen)
    for unit in (0, 4, len(dose.columns) - 1):
        latent = int(dose.seen.latents[unit])
        direction = sae.W_dec[latent].detach() / sae.W_dec[latent].detach().norm()
        change = context.is_kept[:, None] * size * direction
        assert change.norm(dim=1).max() == pytest.approx(size)
        expected = value(context, change=change) - value(context)
        assert found[unit].item() == pytest.approx(expected, abs=1e-5)
    silent = set(dose.seen.latents[-6:].tolist())
    assert not silent & set(context.seen.latents.tolist())


def test_a_small_dose_is_the_gradient_times_the_dose(context):
    dose = prepared(Dose(dose=0.01), context)
    found = dose.measure([TARGET], batch_rows=64).effect[0]
    guess = dose.to_units(GradTimesAct().scores(dose.seen, TARGET, make_generator(0, "test")))
    torch.testing.assert_close(found, guess, atol=2e-4, rtol=0.1)
    assert found.abs().max() > 2e-3


def test_a_joint_set_goes_at_once(context):
    sets = prepared(Joint(size=3, n_sets=5), context)
    assert isinstance(sets, Sets)
    found = sets.measure([TARGET], batch_rows=4).effect[0]
    for i, members in enumerate(sets.members):
        codes = context.seen.codes.clone()
        codes[:, members] = 0
        assert found[i].item() == pytest.approx(value(context) - value(context, codes), abs=1e-5)


def on_tail(seen: SeenPrompt, sae: SAE, source: Any) -> PromptContext:
    kept = torch.ones(len(seen.codes), dtype=torch.bool)
    return PromptContext(seen=seen, is_kept=kept, sae=sae, source=source, seed=0, max_units=None)


def test_on_a_linear_rerun_every_truth_is_a_sum_of_single_effects(generator, context, sae):
    here = on_tail(linear_rerun(generator), sae, context.source)
    single = effects(here.seen, LOGIT)
    for truth in (Joint(size=2, n_sets=6), Shapley(n_pairs=2)):
        question = prepared(truth, here)
        found = question.measure([LOGIT], batch_rows=4).effect[0]
        torch.testing.assert_close(found, question.to_units(single), check_dtype=False)


def shapley_by_all_orders(seen: SeenPrompt) -> Tensor:
    """The mean over every order, one subset after the other."""
    rerun = seen.rerun
    assert isinstance(rerun, PlainRerun)

    def m(gone: tuple[int, ...]) -> float:
        codes = seen.codes.clone()
        codes[:, list(gone)] = 0
        return LOGIT.value(rerun.logits(seen.activation(codes)[None])).item()

    total = torch.zeros(seen.n_active, dtype=torch.float64)
    orders = list(itertools.permutations(range(seen.n_active)))
    for order in orders:
        for i, c in enumerate(order):
            total[c] += m(order[:i]) - m(order[: i + 1])
    return total / len(orders)


def test_pairs_of_orders_give_the_exact_share_where_interactions_are_pairwise(
    generator, context, sae
):
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    seen = planted(
        torch.rand(2, 4, generator=generator, dtype=torch.float64),
        torch.randn(4, 4, generator=generator, dtype=torch.float64),
        lambda x: (x.sum(1) @ root).square().sum(1, keepdim=True),
    )
    measured = prepared(Shapley(n_pairs=2), on_tail(seen, sae, context.source)).measure(
        [LOGIT], batch_rows=3
    )
    expected = shapley_by_all_orders(seen)
    torch.testing.assert_close(measured.effect[0], expected)
    assert not torch.allclose(expected, effects(seen, LOGIT), rtol=0.1)  # not the single effects
    assert measured.error is not None and measured.error.max() < 1e-6


def test_sampled_shares_add_up_and_state_their_error(generator, context, sae):
    """A product of four: interactions of all orders, so single pairs differ."""
    seen = planted(
        torch.rand(1, 4, generator=generator, dtype=torch.float64) + 0.5,
        torch.eye(4, dtype=torch.float64),
        lambda x: x[:, -1].prod(1, keepdim=True) + 0.3 * x[:, -1].amax(1, keepdim=True),
    )
    measured = prepared(Shapley(n_pairs=30), on_tail(seen, sae, context.source)).measure(
        [LOGIT], batch_rows=5
    )
    both = torch.stack([seen.clean, torch.zeros_like(seen.clean)])
    joint = LOGIT.value(seen.rerun.logits(both)).diff().item()
    assert measured.effect[0].sum().item() == pytest.approx(-joint)
    assert measured.error is not None
    gap = (measured.effect[0] - shapley_by_all_orders(seen)).abs()
    assert bool((gap < 4 * measured.error[0] + 1e-9).all()) and measured.error.max() > 0


def test_too_few_latents_for_a_set_are_named(context, sae):
    seen = planted(torch.ones(1, 3), torch.eye(3), lambda x: x[:, -1])
    found = Joint(size=3).prepare(on_tail(seen, sae, context.source), make_generator(0, "test"))
    assert found == Skipped("no more than 3 active latents to draw sets from")


def test_several_scalars_of_one_run_are_those_of_single_runs(context):
    seen = context.seen
    clean = seen.rerun.logits(seen.clean[None], [-1])[0]
    targets = [make_target(s, [7], clean) for s in ("log_prob", "logit", "prob", "logit_diff")]
    together = ablate_all(seen, targets, torch.arange(seen.n_active), batch_rows=8)
    for target, found in zip(targets, together, strict=True):
        torch.testing.assert_close(found.effect, effects(seen, target), atol=1e-6, rtol=1e-5)
    n_rows = sum(len(part) + 1 for part in torch.arange(seen.n_active).split(7))
    assert together[0].n_reruns <= n_rows  # not four times as many


def test_the_effect_on_kl_is_the_kl_of_removing_the_latent(context):
    seen = context.seen
    clean = seen.rerun.logits(seen.clean[None], [-1])[0]
    target = make_target("kl", [7], clean)
    found = effects(seen, target)
    codes = seen.codes.clone()
    codes[:, 4] = 0
    edited = seen.rerun.logits(seen.activation(codes)[None], [-1])[0, 0].double()
    expected = torch.nn.functional.kl_div(
        edited.log_softmax(0), clean[0].double().log_softmax(0), log_target=True, reduction="sum"
    )
    assert found[4].item() == pytest.approx(expected.item(), rel=1e-4)
    assert bool((found > 0).all())


def test_at_the_clean_point_kl_has_no_slope_and_only_curvature_knows_it(generator):
    """Logits are linear, so KL is d F d / 2 to second order, F the softmax's Fisher matrix."""
    unembed = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    directions = 1e-2 * torch.randn(1, 4, generator=generator, dtype=torch.float64)
    error = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    codes = torch.ones(1, 1, dtype=torch.float64)
    seen = planted(codes, directions, lambda x: x[:, -1] @ unembed, error=error)
    clean = seen.rerun.logits(seen.clean[None])[0]
    target = KLToClean(token=0, clean=clean.log_softmax(-1))
    p = clean[0].softmax(0)
    moved = directions[0] @ unembed
    expected = (p @ moved.square() - (p @ moved) ** 2) / 2
    found = Curvature().scores(seen, target, make_generator(0, "test"))
    assert found.item() == pytest.approx(expected.item(), rel=0.05)
    assert effects(seen, target).item() == pytest.approx(expected.item(), rel=0.05)
    reason = GradTimesAct().why_not(target)
    assert reason is not None and "flat at the clean pass" in reason
    assert Curvature().why_not(target) is None and GradTimesAct().why_not(TARGET) is None


def test_an_answer_of_three_tokens_is_the_sum_of_its_log_probabilities():
    logits = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    answer = Answer(tokens=(4, 0, 8))
    rows = logits.log_softmax(-1)
    expected = rows[:, 0, 4] + rows[:, 1, 0] + rows[:, 2, 8]
    torch.testing.assert_close(answer.value(logits), expected)
    assert answer.positions == (-3, -2, -1) and answer.token == 4
    chance = Answer(tokens=(4, 0, 8), scalar="prob").value(logits)
    torch.testing.assert_close(chance, expected.exp())
    foiled = make_target("logit_diff", (4, 0, 8), logits[0])
    best = logits[0].clone()
    best[range(3), [4, 0, 8]] = -math.inf
    expected = logits[0, range(3), [4, 0, 8]].sum() - best.amax(-1).sum()
    assert foiled.value(logits)[0].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Answer(tokens=()), "tokens must hold the answer's tokens"),
        (lambda: Answer(tokens=(1, 2), scalar="logit_diff"), "needs a foil for each token"),
        (lambda: Dose(dose=0.0), "dose must not be 0"),
        (lambda: Joint(size=1), "size must be a whole number from 2, got 1"),
        (lambda: Shapley(n_pairs=1), "n_pairs must be a whole number from 2, got 1"),
    ],
)
def test_bad_fields_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
