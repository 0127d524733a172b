"""Steering on a budget: ladders, what is predicted, and the task, against values by hand."""

import math
from typing import Any

import pytest
import scipy.stats
import torch
from tiny_prompts import Windows, random_sae, tiny_lm

from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.gradient import gradient
from gradsae.influence.target import NextToken
from gradsae.interfaces import Scores, Skipped
from gradsae.prompts.sets import CutPrompts
from gradsae.records.schema import check_json
from gradsae.sources.superposition import Superposition
from gradsae.steering import prediction
from gradsae.steering.budget import SteeringBudget
from gradsae.steering.climb import Budget, Choice, Climb, Ladder
from gradsae.steering.doses import respond, slope
from gradsae.steering.interventions import Intervention, Text, read
from gradsae.steering.ladder import at_budget, at_cost, last_safe
from gradsae.steering.side_effects import UnrelatedText

SAE = random_sae(k=8).requires_grad_(False)


@pytest.fixture(scope="module")
def source() -> Windows:
    return Windows(tiny_lm())


@pytest.fixture(scope="module")
def text(source) -> Text:
    return read(source, SAE, source.eval_windows(1, 7)[0])


def test_a_quadratic_kl_and_a_linear_effect_are_met_exactly_at_the_budget():
    doses = torch.tensor([1.0, 2.0, 4.0]).double()
    found = at_budget(3 * doses, 0.01 * doses**2, 0.09)  # KL .09 at dose 3
    assert found.value == pytest.approx(9.0)
    assert found.reached


def test_a_loss_that_falls_first_and_then_rises_is_met_on_a_line():
    effect, loss = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([-0.1, 0.0, 0.2])
    assert at_cost(effect, loss, 0.05) == pytest.approx((3.0, True))  # a quarter from 2 to 6
    assert at_cost(effect, loss, 0.3) == (6.0, False)


def test_a_budget_that_is_never_spent_ends_at_the_last_step():
    found = at_budget(torch.tensor([1.0, 2.0]), torch.tensor([0.01, 0.02]), 0.1)
    assert found == (2.0, False)


def test_a_first_step_beyond_the_budget_is_cut_back():
    found = at_budget(torch.tensor([4.0]), torch.tensor([0.4]), 0.1)
    assert found.value == pytest.approx(2.0)  # half way in the root of the KL


@pytest.mark.parametrize(
    ("kl", "ppl", "safe"),
    [
        ([0.1, 0.2, 0.9], [0.0, 0.0, 0.0], 2),
        ([0.1, 0.2, 0.3], [0.0, 9.0, 0.0], 1),  # a step that is safe again does not count
        ([0.9, 0.1, 0.1], [0.0, 0.0, 0.0], 0),
        ([0.1, 0.1, 0.1], [0.0, 0.0, math.inf], 2),
    ],
)
def test_the_last_safe_step_comes_before_the_first_that_spends_any_budget(kl, ppl, safe):
    assert last_safe([(kl, 0.5), (ppl, 1.0)]) == safe


def test_adding_nothing_changes_no_bit_and_adding_is_a_shift(text):
    chosen = text.choose(torch.tensor([1, 4]))
    none, one = (Intervention(mode="add", dose=dose) for dose in (0.0, 1.5))
    assert torch.equal(text.steered(chosen, none), text.seen.clean)
    largest = text.seen.codes[:, [1, 4]].amax(0)
    shift = 1.5 * largest @ text.seen.directions[[1, 4]]
    expected = text.seen.clean + shift * text.is_kept[:, None]
    torch.testing.assert_close(text.steered(chosen, one), expected, atol=1e-5, rtol=1e-5)


def test_the_slope_at_dose_zero_is_the_plain_gradient_times_the_reference(text):
    columns = torch.tensor([0, 3])
    found = slope(text, 5, text.choose(columns), mode="add")
    grad = gradient(text.seen, NextToken(token=5), text.seen.codes[None])[0]
    kept = grad * text.is_kept[:, None]
    expected = (kept[:, columns].sum(0) * text.seen.codes[:, columns].amax(0)).sum().item()
    assert found.gradient == pytest.approx(expected, rel=1e-4)
    assert found.difference == pytest.approx(found.gradient, rel=0.02, abs=1e-4)


def test_flips_and_rises_on_unrelated_text_are_counted_by_hand(source):
    windows = source.eval_windows(2, 3)
    texts = [read(source, SAE, window) for window in windows]
    chosen = texts[0].choose(torch.tensor([2]))
    steps = [Intervention(mode="add", dose=dose) for dose in (0.0, 3.0)]
    found = UnrelatedText(texts=texts).damage(chosen, steps, batch_rows=3, target=7)
    flips = rises = n = 0
    for one in texts:
        clean = one.seen.rerun.logits(one.seen.clean[None])[0].log_softmax(-1)
        moved = one.seen.rerun.logits(one.steered(chosen, steps[1])[None])[0].log_softmax(-1)
        flips += int((clean.argmax(-1) != moved.argmax(-1)).sum())
        rises += int((moved[1:, 7] > clean[1:, 7]).sum()) + 0.5  # position 0 is never edited
        n += len(clean)
    assert found.flips.tolist() == pytest.approx([0.0, flips / n])
    assert found.risen is not None and found.risen.tolist() == pytest.approx([0.5, rises / n])
    assert 0 < flips < n


def test_a_climb_stops_trying_unrelated_text_where_both_budgets_are_spent(source, text):
    unrelated = UnrelatedText(texts=[read(source, SAE, w) for w in source.eval_windows(1, 3)])
    doses, chosen = (0.1, 0.5, 2.0, 8.0, 32.0), text.choose(torch.tensor([0, 1, 2]))
    steps = [Intervention(mode="add", dose=dose) for dose in doses]
    kl = respond(text, 5, chosen, steps, batch_rows=8).kl_rest
    limit = float((kl[1] + kl[2]) / 2)
    assert kl[0] < limit and kl[1] < limit < kl[2]

    def climb(budget: Budget) -> Climb:
        ladder = Ladder(doses=doses, budget=budget, unrelated=unrelated, batch_rows=8)
        return ladder.climb(text, 5, Choice(0, "a", chosen))

    found = climb(Budget(limit, math.inf))
    assert found.log_ppl_ratio is not None and len(found.log_ppl_ratio) == 5
    assert found.at_ppl == (found.effect[-1].item(), False)
    whole = unrelated.damage(chosen, steps, batch_rows=8).log_ppl_ratio
    torch.testing.assert_close(found.log_ppl_ratio, whole, atol=1e-5, rtol=1e-5)
    early = float(whole[:3].max()) / 2
    assert early > 0
    short = climb(Budget(limit, early))
    assert short.log_ppl_ratio is not None and len(short.log_ppl_ratio) == 3
    assert short.at_ppl is not None and short.at_ppl.reached
    over = int((whole > early).nonzero()[0])
    ends = sorted(found.effect[max(over - 1, 0) : over + 1].tolist() + [0.0] * (over == 0))
    assert ends[0] <= short.at_ppl.value <= ends[-1]
    assert (found.n_safe, found.safe_dose) == (2, 0.5)
    assert found.safe_effect == found.effect[1].item()
    strict = climb(Budget(limit, -math.inf))
    assert (strict.n_safe, strict.safe_dose, strict.safe_effect) == (0, 0.0, 0.0)


TABLE = {
    "prompt": [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2],
    "grad_times_act": [1.0, -3.0, 2.0, 4.0, 0.1, 0.4, -0.2, 0.3, 1.0, 1.0, 1.0],
    "mean_act": [4.0, 1.0, 3.0, 2.0, 1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0],
    "effect_at_kl": [0.1, -0.3, 0.2, 0.5, 0.3, 0.6, 0.5, 0.2, 0.4, 0.5, 0.6],
}


def test_what_predicts_is_the_mean_rank_correlation_of_sizes_over_prompts():
    expected: Any = [
        scipy.stats.spearmanr(
            [abs(v) for v in TABLE["grad_times_act"][part]],
            [abs(v) for v in TABLE["effect_at_kl"][part]],
        )[0]
        for part in (slice(0, 4), slice(4, 8))
    ]
    found = prediction.predicts(TABLE, "grad_times_act")
    assert isinstance(found, prediction.Statistic)
    assert found.mean == pytest.approx(sum(expected) / 2)
    assert found.n == 2  # on the third prompt the score does not vary
    assert found.low is not None and found.low <= found.mean


def test_two_scores_are_compared_on_the_prompts_that_both_have():
    better = prediction.predicts_better(TABLE, "grad_times_act", "mean_act")
    ours, theirs = (prediction.by_prompt(TABLE, n) for n in ("grad_times_act", "mean_act"))
    assert isinstance(better, prediction.Statistic)
    assert better.mean == pytest.approx(sum(ours[p] - theirs[p] for p in (0, 1)) / 2)
    assert isinstance(prediction.predicts({**TABLE, "mean_act": [1.0] * 11}, "mean_act"), Skipped)


def test_a_signed_score_is_compared_with_its_sign():
    signed = prediction.by_prompt(TABLE, "grad_times_act", signed=True)
    assert signed[0] == pytest.approx(1.0)


def task(**changes: Any) -> SteeringBudget:
    fields: dict[str, Any] = {
        "prompts": CutPrompts(n_prompts=3, length=10),
        "estimators": [GradTimesAct(), MeanAct()],
        **{"k": 3, "doses": (0.1, 1.0, 10.0), "n_single": 4},
        **{"n_unrelated": 1, "unrelated_length": 12},
    }
    return SteeringBudget(**(fields | changes))


@pytest.fixture(scope="module")
def scores(source) -> Scores:
    found = task().measure(SAE, source, 0)
    assert isinstance(found, Scores)
    return found


def test_scores_are_means_of_the_trials_in_the_record(scores):
    table = scores.series["budget/trials"]
    for selector in ("grad_times_act", "mean_act", "random_matched", "random_direction"):
        rows = [i for i, s in enumerate(table["selector"]) if s == selector]
        assert len(rows) == 3
        for what in (
            "effect_at_kl",
            "effect_at_ppl",
            "safe_effect",
            "safe_dose",
            "flips",
            "stability",
        ):
            mean = sum(table[what][i] for i in rows) / 3
            assert scores.scores[f"budget/{what}/{selector}"] == pytest.approx(mean)


def test_the_statistic_of_the_scores_is_that_of_the_record(scores):
    table = scores.series["budget/latents"]
    assert len(table["latent"]) == 12
    found = prediction.predicts(table, "mean_act", 0)
    assert isinstance(found, prediction.Statistic)
    assert scores.scores["budget/predicts/mean_act"] == found.mean
    assert "budget/grad_predicts_better/mean_act" in scores.scores


def test_gradients_agree_with_finite_differences_for_every_selector(scores):
    gaps = [v for k, v in scores.scores.items() if k.startswith("budget/slope_gap/")]
    assert len(gaps) == 4 and max(gaps) < 0.02


def test_series_fit_a_record_and_the_same_seed_repeats_them(scores, source):
    check_json("series", scores.series)
    assert task().measure(SAE, source, 0) == scores


def test_what_does_not_apply_is_skipped(source):
    toy = task().measure(SAE, Superposition(n_features=4, width=2, l0=1), 0)
    assert isinstance(toy, Skipped) and "no language model" in toy.reason
    few = task(k=60).measure(SAE, source, 0)
    assert isinstance(few, Skipped) and "2 x 60 latents active" in few.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doses": (0.2, 0.1)}, "doses must be two or more that rise from above 0"),
        ({"doses": (0.0, 0.1)}, "rise from above 0"),
        ({"estimators": [MeanAct()]}, "estimators must hold grad_times_act"),
        ({"kl_budget": 0}, "kl_budget must be a number above 0, got 0"),
        ({"ppl_budget": 1.0}, "ppl_budget must be a number above 1, got 1.0"),
    ],
)
def test_bad_fields_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**changes)
