"""The steering task: scores of many prompts, their cost, and what is left out."""

from typing import Any

import pytest
from tiny_prompts import Windows, random_sae, tiny_lm

from gradsae.errors import UserError
from gradsae.interfaces import Scores, Skipped
from gradsae.prompts.sets import CutPrompts
from gradsae.records.schema import check_json
from gradsae.sources.superposition import Superposition
from gradsae.steering.interventions import read
from gradsae.steering.selectors import MAIN
from gradsae.steering.task import Steering

SAE = random_sae(k=8).requires_grad_(False)


@pytest.fixture(scope="module")
def source() -> Windows:
    return Windows(tiny_lm())


def steering(**changes: Any) -> Steering:
    fields: dict[str, Any] = {
        **{"prompts": CutPrompts(n_prompts=3, length=10), "k": 3, "n_unrelated": 2},
        **{"scale_doses": (0.0, 1.0, 4.0), "set_doses": (1.0, 2.0)},
        **{"unrelated_length": 12, "n_samples": 1, "sample_tokens": 3},
    }
    return Steering(**(fields | changes))


def measured(source: Windows, seed: int = 0, **changes: Any) -> Scores:
    found = steering(**changes).measure(SAE, source, seed)
    assert isinstance(found, Scores)
    return found


@pytest.fixture(scope="module")
def scores(source) -> Scores:
    return measured(source)


def test_scores_are_those_of_switching_the_latents_off(scores):
    found = scores
    curve = found.series["steering/dose_response"]
    for name in (MAIN, "mean_act", "random_matched"):
        row = next(i for i, s in enumerate(curve["selector"]) if s == name)
        assert (curve["mode"][row], curve["dose"][row]) == ("scale", 0.0)
        assert found.scores[f"steering/effect/{name}"] == pytest.approx(-curve["effect"][row])
        assert found.scores[f"steering/kl_rest/{name}"] == curve["kl_rest"][row]
        assert found.scores[f"steering/ppl_ratio/{name}"] == curve["ppl_ratio"][row]
        low, high = found.intervals[f"steering/effect/{name}"]
        assert low <= found.scores[f"steering/effect/{name}"] <= high
        assert found.n[f"steering/effect/{name}"] == 3
    for what in ("effect", "kl_rest", "ppl_ratio", "selectivity"):
        assert found.scores[f"steering/{what}"] == found.scores[f"steering/{what}/{MAIN}"]
    rms_of_the_rest = (2 * found.scores["steering/kl_rest"]) ** 0.5
    expected = found.scores["steering/effect"] / rms_of_the_rest
    assert found.scores["steering/selectivity"] == pytest.approx(expected)
    ahead = found.scores[f"steering/effect/{MAIN}"] - found.scores["steering/effect/random_matched"]
    assert found.scores["steering/advantage"] == pytest.approx(ahead)


def test_the_no_op_dose_scores_exactly_nothing(scores):
    curve = scores.series["steering/dose_response"]
    rows = [
        i
        for i, how in enumerate(zip(curve["mode"], curve["dose"], strict=True))
        if how == ("scale", 1.0)
    ]
    assert len(rows) == 3
    for i in rows:
        found = [curve[name][i] for name in ("effect", "kl_rest", "ppl_ratio", "effect_low")]
        assert found == [0.0, 0.0, 1.0, 0.0]


def test_finite_differences_agree_with_the_gradient_in_every_run(scores):
    assert scores.scores["steering/slope_gap"] < 0.02


def test_the_same_seed_gives_the_same_scores_and_another_does_not(source, scores):
    assert measured(source) == scores
    assert measured(source, seed=1).scores != scores.scores


def test_series_fit_a_record_and_samples_show_each_selector(scores):
    check_json("series", scores.series)
    shown = scores.series["steering/samples"]
    assert list(zip(shown["selector"], shown["mode"], shown["dose"], strict=True))[:3] == [
        (MAIN, "scale", 0.0),
        (MAIN, "scale", 4.0),
        (MAIN, "set", 2.0),
    ]
    assert len({len(column) for column in shown.values()}) == 1
    assert set(shown["selector"]) == {MAIN, "mean_act", "random_matched"}


def test_cost_counts_every_pass(source):
    found = measured(
        source,
        prompts=CutPrompts(n_prompts=1, length=10),
        selectors=[MAIN],
        scale_doses=[0],
        set_doses=[],
        n_unrelated=1,
        n_samples=1,
        sample_tokens=3,
    )
    suffix = 2 / 4  # layer 1 of 4: two blocks after it
    reading = 1 + 2 * (1 - suffix)  # the target; up to the site for the prompt and the window
    ranking, dose, unrelated = 3 * suffix, 2 * suffix, 2 * suffix  # an unedited row beside each
    check = 3 * suffix + 3 * suffix  # gradient; one batch of two doses
    samples = 2 * 3 + 3  # off and the largest factor, which is off here, too; and the text before
    total = reading + ranking + dose + unrelated + check + samples
    assert found.forward_equivalents == pytest.approx(total)


def test_a_source_without_a_language_model_is_skipped():
    toy = Superposition(n_features=4, width=2, l0=1)
    found = steering().measure(SAE, toy, 0)
    assert isinstance(found, Skipped)
    assert "Superposition has no language model" in found.reason


def test_prompts_without_enough_active_latents_are_left_out_and_say_so(source):
    shut = random_sae(k=8).requires_grad_(False)
    shut.b_enc.fill_(-100.0)
    silent = steering().measure(shut, source, 0)
    assert silent == Skipped(
        "none of 3 prompts can be steered; first: no latent fires on the prompt"
    )
    few = steering(k=60).measure(SAE, source, 0)
    assert isinstance(few, Skipped)
    assert "fewer than k=60 latents are active" in few.reason


def test_a_control_that_cannot_be_matched_is_skipped_and_the_rest_is_scored(source):
    n_active = read(source, SAE, source.eval_windows(1, 0)[0][:10]).seen.n_active
    found = measured(source, k=n_active // 2 + 1, prompts=CutPrompts(n_prompts=1, length=10))
    assert f"steering/effect/{MAIN}" in found.scores
    assert "too few to match" in found.skipped["steering/effect/random_matched"]
    assert "steering/effect/random_matched" not in found.scores
    assert found.intervals == {}  # one prompt says nothing about others
    assert found.series["steering/left_out"]["n_prompts"] == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k must be a whole number from 1, got 0"),
        ({"batch_rows": 1}, "batch_rows must be a whole number from 2, got 1"),
        ({"selectors": ["mean_act"]}, "selectors must be a list with grad_times_act in it"),
        ({"selectors": [MAIN, "best"]}, "one of grad_times_act, mean_act, random_m.*; got 'best'"),
        ({"selectors": [MAIN, MAIN]}, "selectors must not repeat"),
        ({"scale_doses": [0.5, 1]}, r"scale_doses must hold 0 .off., got \[0.5, 1\]"),
        ({"scale_doses": [0, -1]}, "must be a number from 0, got -1.0"),
        ({"set_doses": [1, 1]}, "doses must not repeat"),
    ],
)
def test_bad_fields_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        steering(**changes)


def test_samples_that_do_not_fit_the_context_are_refused_before_the_work(source):
    with pytest.raises(UserError, match="sample_tokens=60 after a prompt of 10 tokens exceed"):
        measured(source, sample_tokens=60)


def test_unrelated_text_longer_than_the_windows_is_an_error(source):
    with pytest.raises(UserError, match="unrelated text of 40 tokens does not fit"):
        measured(source, unrelated_length=40)
