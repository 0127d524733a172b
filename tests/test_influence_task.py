"""The influence task: one prompt, the scores of many, and what is skipped."""

import math
from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tiny_prompts import PlainRerun, Windows, linear_rerun, random_sae, tiny_lm

from gradsae.errors import UserError
from gradsae.influence import summary
from gradsae.influence.ablation import N_JITTERED, N_NO_OPS
from gradsae.influence.case import Case, Question, chosen_columns, study
from gradsae.influence.compare import compare
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.estimators.random import Random
from gradsae.influence.estimators.released_gradsae import ReleasedGradSAE
from gradsae.influence.panel import Panel
from gradsae.influence.target import SCALARS, NextToken
from gradsae.influence.task import Influence
from gradsae.influence.truths.entry import Entry
from gradsae.interfaces import Scores, Skipped
from gradsae.prompts.seen import SeenPrompt, see_from
from gradsae.prompts.sets import CutPrompts, Prompt
from gradsae.records.shapes import MAX_SERIES_VALUES, SCORE_NAME
from gradsae.seeds import make_generator
from gradsae.sources.superposition import Superposition

ESTIMATORS = (GradTimesAct(), ReleasedGradSAE(), MeanAct(), Random())


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module")
def source(lm):
    return Windows(lm)


def case_of(seen: SeenPrompt, max_latents: int | None = None) -> Case:
    prompt = Prompt(token_ids=seen.token_ids, target=0, text="", origin="here")
    question = Question(index=0, prompt=prompt, target=NextToken(token=0), target_prob=0.5)
    panel = Panel(estimators=ESTIMATORS, ks=(3,), seed=0)
    return study(seen, question, panel, batch_rows=4, max_latents=max_latents)


def test_a_case_reports_every_rerun(generator):
    """Five latents in batches of 3 + 1, two gradients, the noise; two clean passes went before."""
    seen = linear_rerun(generator)
    case = case_of(seen)
    rerun = seen.rerun
    assert isinstance(rerun, PlainRerun)
    joint = 2
    assert rerun.n_rows == (5 + 2) + 2 + joint + (1 + N_JITTERED) + (1 + N_NO_OPS)
    n_backwards, n_callers = 2, 2
    assert case.spent == pytest.approx(
        (1 - rerun.fraction) + (rerun.n_rows + n_callers + 2 * n_backwards) * rerun.fraction
    )
    assert case.cost["ablation"] == pytest.approx(1 + 5 * rerun.fraction)


def test_a_random_part_of_the_latents_keeps_its_effects_and_has_no_precision(generator):
    seen = linear_rerun(generator)
    part, whole = case_of(seen, max_latents=4), case_of(seen)
    assert len(part.effect) == 4 and part.n_active == 5
    places = torch.isin(whole.latents, part.latents)
    torch.testing.assert_close(part.effect, whole.effect[places])
    for name in part.estimates:
        torch.testing.assert_close(part.estimate(name), whole.estimate(name)[places])
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
    found = compare({"itself": effect}, effect, (5,), in_units={"itself": True}, whole=True)
    assert {name: answer["itself"] for name, answer in found.items()} == {
        **{name: pytest.approx(1) for name in ("spearman", "spearman_abs", "pearson", "kendall")},
        **{name: pytest.approx(1) for name in ("sign_agreement", "calibration_slope")},
        **{f"{name}_at_5": pytest.approx(1) for name in ("precision", "effect_recall", "ndcg")},
        **{"relative_error": 0, "false_negatives_at_5": 0},
    }


def test_an_estimate_without_units_has_no_measure_of_size_and_a_silent_one_says_why_once():
    effect = torch.randn(30, generator=torch.Generator().manual_seed(0))
    silent = Skipped("nothing to say")
    found = compare(
        {"ranks": effect, "silent": silent},
        effect,
        (5,),
        in_units={"ranks": False, "silent": True},
        whole=True,
    )
    assert found["relative_error"] == {} and "ranks" in found["kendall"]
    assert [name for name, answer in found.items() if "silent" in answer] == ["spearman"]


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


def test_the_tables_of_the_page_hold_the_first_latents_with_their_ranks_among_all(scores, source):
    """Ranks by hand from the scatter, which holds every latent here."""
    scatter, listed = scores.series["influence/scatter"], scores.series["influence/latents"]
    assert set(listed["prompt"]) == {0, 1, 2}
    first = [i for i, prompt in enumerate(scatter["prompt"]) if prompt == 0]
    for name in ("effect", *(e.name for e in ESTIMATORS)):
        value = {scatter["latent"][i]: scatter[name][i] for i in first}
        here = [i for i, prompt in enumerate(listed["prompt"]) if prompt == 0]
        assert {listed["latent"][i] for i in here} >= set(
            sorted(value, key=value.__getitem__)[-10:]
        )
        for i in here:
            assert listed[name][i] == value[listed["latent"][i]]
            above = sum(other > listed[name][i] for other in value.values())
            equal = sum(other == listed[name][i] for other in value.values())
            assert above < listed[f"rank.{name}"][i] <= above + equal
    tokens = scores.series["influence/tokens"]
    assert tokens["prompt"] == [0] * 10 + [1] * 10 + [2] * 10
    window = source.eval_windows(4, 0)[0][:10]
    seen = see_from(source, random_sae(), window)
    column = int((seen.latents == listed["latent"][0]).nonzero()[0, 0])
    assert seen.codes[listed["peak"][0], column] == seen.codes[:, column].max()


def test_what_does_not_fit_a_record_gets_no_page(monkeypatch, source):
    monkeypatch.setattr(summary, "MAX_SERIES_VALUES", 10)
    outcome = replace(TASK, n_scatter=1).measure(random_sae(), source, 0)
    assert isinstance(outcome, Scores) and "influence/latents" not in outcome.series


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
    n_active, truth = scores.scores["influence/n_active"], scores.scores["influence/cost/ablation"]
    # Position 0 is dropped, so nothing is ablated from the first of the ten positions on.
    assert scores.scores["influence/cost/grad_times_act"] < truth < 1 + 0.9 * n_active * fraction
    assert scores.forward_equivalents > 4 * truth


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


@pytest.mark.parametrize("name", ["influence", "influence/quick"])
def test_the_yaml_files_build_the_four_estimators(name, request):
    with initialize_config_dir(str(request.config.rootpath / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[f"task={name}", "source=lm_layer"])
    task = instantiate(cfg.task, _convert_="object")
    assert [e.name for e in task.estimators] == [e.name for e in ESTIMATORS]


def test_bfloat16_drowns_the_effects_that_float32_resolves(lm, source):
    low = tiny_lm()
    low.model.bfloat16()
    high, rough = (TASK.measure(random_sae(), Windows(m), 0) for m in (lm, low))
    assert isinstance(high, Scores) and isinstance(rough, Scores)
    assert high.scores["influence/above_noise"] > 0.99
    assert rough.scores["influence/noise_floor"] > 1000 * high.scores["influence/noise_floor"]


def test_weights_that_make_no_finite_logits_are_an_error():
    sick = tiny_lm()
    sick.model.lm_head.weight.data[3] = math.inf
    with pytest.raises(UserError, match="logits are not finite"):
        TASK.measure(random_sae(), Windows(sick), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"also": ("log_prob",)}, "scalars must not repeat"),
        ({"truths": (Entry(), Entry())}, "truths must not repeat"),
    ],
)
def test_scalars_and_truths_are_there_once(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TASK, **changes)


def test_an_sae_with_a_weight_that_is_not_finite_is_an_error_before_any_prompt(source):
    sick = random_sae()
    with torch.no_grad():
        sick.b_enc[7] = math.nan
    with pytest.raises(UserError, match="b_enc has 1 entries that are not finite"):
        TASK.measure(sick, source, 0)
