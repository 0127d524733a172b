"""What the influence table asks beside ablation: further scalars, truths, answers and checks."""

from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tiny_prompts import Windows, random_sae, tiny_lm

from gradsae.influence.estimators.contrib.curvature import Curvature
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.task import Influence
from gradsae.influence.truths.baseline import Baseline
from gradsae.influence.truths.dose import Dose
from gradsae.influence.truths.entry import Entry
from gradsae.influence.truths.joint import Joint
from gradsae.influence.truths.shapley import Shapley
from gradsae.interfaces import HeldOut, Scores
from gradsae.prompts.seen import see_from
from gradsae.prompts.sets import CutPrompts, GivenPrompts
from gradsae.records.shapes import MAX_SERIES_VALUES, SCORE_NAME
from gradsae.seeds import make_generator


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module")
def source(lm):
    return Windows(lm)


class Held(Windows):
    """With held-out activations, as baselines need."""

    def held_out(self, n: int, seed: int) -> HeldOut:
        return HeldOut(torch.randn(n, 32, generator=make_generator(seed, "test held out")))


FEW = (GradTimesAct(), Curvature(), MeanAct())
SMALL = CutPrompts(n_prompts=2, length=6)


def test_further_scalars_cost_no_ablation_and_change_no_number(source):
    task = Influence(prompts=SMALL, estimators=FEW, ks=(3,))
    alone = task.measure(random_sae(), source, 0)
    found = replace(task, also=("logit", "kl")).measure(random_sae(), source, 0)
    logit = replace(task, scalar="logit").measure(random_sae(), source, 0)
    assert isinstance(alone, Scores) and isinstance(found, Scores) and isinstance(logit, Scores)
    same = {name: found.scores[name] for name in alone.scores}
    assert same == pytest.approx(alone.scores, abs=1e-6)
    for name in ("spearman", "precision_at_3"):
        expected = logit.scores[f"influence/{name}/grad_times_act"]
        assert found.scores[f"influence/{name}.logit/grad_times_act"] == pytest.approx(expected)
    assert found.scores["influence/spearman.kl/curvature_1"] != 0
    assert "flat at the clean pass" in found.skipped["influence/spearman.kl/grad_times_act"]
    assert [name for name in found.skipped if ".kl/grad_times_act" in name] == [
        "influence/spearman.kl/grad_times_act"
    ]
    assert found.scores["influence/cost/ablation"] == alone.scores["influence/cost/ablation"]
    assert 0 < found.scores["influence/unreliable/curvature_1"] < 1


def test_further_truths_are_named_in_their_scores_and_ablation_is_tried_on_them(lm):
    truths = (Entry(), Baseline(n_rows=20), Dose(n_inactive=3), Joint(size=2), Shapley(n_pairs=2))
    task = Influence(prompts=SMALL, estimators=FEW, ks=(3,), truths=truths, also=("logit",))
    found = task.measure(random_sae(), Held(lm), 0)
    assert isinstance(found, Scores)
    for truth in truths:
        for scalar in ("", ".logit"):
            label = f"influence/spearman.{truth.name}{scalar}"
            assert f"{label}/grad_times_act" in found.scores
            by_ablation = found.scores.get(f"{label}/ablation")
            assert (by_ablation is None) == (truth.name == "entry")
    assert 0 < found.scores["influence/sampling_error/shapley_2"] < 2
    assert all(SCORE_NAME.fullmatch(name) for name in found.scores)


def test_recall_after_checks_starts_at_precision_and_ends_at_the_truth(source):
    task = Influence(prompts=CutPrompts(n_prompts=3, length=10), estimators=FEW, ks=(3,))
    found = task.measure(random_sae(), source, 0)
    assert isinstance(found, Scores)
    rows = list(zip(*found.series["influence/recall_after_checks"].values(), strict=True))
    gradient = [row for row in rows if row[0] == "grad_times_act"]
    first, last = gradient[0], gradient[-1]
    assert first[2] == 0 and first[3] == found.scores["influence/cost/grad_times_act"]
    assert first[4] == pytest.approx(found.scores["influence/precision_at_3/grad_times_act"])
    recalls, costs = [row[4] for row in gradient], [row[3] for row in gradient]
    assert recalls == sorted(recalls) and costs == sorted(costs)
    assert last[3] < costs[0] + found.scores["influence/cost/ablation"]


def test_an_answer_of_several_tokens_is_asked_about_as_a_whole(lm, source):
    """The effect on the sum of its log-probabilities, from a loop over full passes."""
    given = GivenPrompts(texts=["hello"], targets=["you!"], one_token=False)
    task = Influence(prompts=given, estimators=FEW, ks=(3,))
    found = task.measure(random_sae(), source, 0)
    assert isinstance(found, Scores)
    table = found.series["influence/scatter"]
    seen = see_from(source, random_sae(), lm.prompt("helloyou")[0])
    answer = lm.tokenize("you!", special=False)[0]

    def log_prob(codes: torch.Tensor) -> float:
        edit = (source.site(), lambda _: seen.activation(codes)[None])
        with torch.no_grad():
            rows = lm.logits(seen.token_ids[None], edit=edit)[0, -4:].log_softmax(-1)
        return rows[range(4), answer].sum().item()

    clean = log_prob(seen.codes)
    for place in (0, 2, seen.n_active - 1):
        codes = seen.codes.clone()
        codes[:, place] = 0
        assert table["latent"][place] == seen.latents[place]
        assert table["effect"][place] == pytest.approx(clean - log_prob(codes), abs=1e-5)


@pytest.mark.parametrize("name", ["table", "truths"])
def test_the_settings_of_the_table_run_on_a_tiny_model(lm, name, request):
    with initialize_config_dir(str(request.config.rootpath / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[f"task=influence/{name}", "source=lm_layer"])
    task = instantiate(cfg.task, _convert_="object")
    few = replace(task.prompts, n_prompts=1, length=5)
    found = replace(task, prompts=few, ks=(2,)).measure(random_sae(), Held(lm), 0)
    assert isinstance(found, Scores)
    for estimator in task.estimators:
        assert f"influence/spearman/{estimator.name}" in found.scores
    if name == "table":  # what is dear explains one scalar alone
        assert "influence/spearman.logit/grad_times_act" in found.scores
        assert "influence/spearman.logit/path_ig_1x4" not in found.scores
    for table in found.series.values():
        assert sum(len(column) for column in table.values()) <= MAX_SERIES_VALUES
