"""Steering: edits do what they say, side effects are measured right, controls are matched."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from hydra.utils import instantiate
from jaxtyping import Bool, Float, Int, TypeCheckError
from torch import Tensor

from gradsae.bootstrap import mean_interval, percentiles, resampled_means
from gradsae.errors import UserError
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.target import NextToken
from gradsae.interfaces import HeldOut, ModelSource, Scores, Skipped, Stream
from gradsae.lm import LM, load
from gradsae.models import LanguageModel
from gradsae.prompt import SeenPrompt
from gradsae.prompts import CutPrompts
from gradsae.sae import SAE, Architecture
from gradsae.schema import check_json
from gradsae.seeds import make_generator
from gradsae.sites import Site
from gradsae.sources.superposition import Superposition
from gradsae.steering import selectors
from gradsae.steering.doses import respond, slope
from gradsae.steering.interventions import OFF, Chosen, Intervention, Text, read, rerun
from gradsae.steering.matched import Matched, match, random_directions, strength
from gradsae.steering.samples import continue_steered
from gradsae.steering.selectors import MAIN, RANKINGS, Selection, select, top
from gradsae.steering.side_effects import UnrelatedText, kl_rest
from gradsae.steering.task import Steering

NO_OP = Intervention(mode="scale", dose=1.0)
CONF = Path(__file__).parents[1] / "conf" / "steering"
D_IN, D_SAE, VOCAB = 32, 64, 256


def scale(*doses: float) -> list[Intervention]:
    return [Intervention(mode="scale", dose=dose) for dose in doses]


def set_to(*doses: float) -> list[Intervention]:
    return [Intervention(mode="set", dose=dose) for dose in doses]


# A model whose algebra is known: logits = (mean over positions of the activation) @ unembed.


@final
@dataclass(frozen=True, eq=False)
class LinearTail:
    clean: Float[Tensor, "pos d_in"]
    unembed: Float[Tensor, "d_in vocab"]
    fraction: float = 0.25

    def logits(
        self, activation: Float[Tensor, "batch pos d_in"], positions: Sequence[int] | None = None
    ) -> Float[Tensor, "batch n_positions vocab"]:
        return (activation.mean(1) @ self.unembed)[:, None]


def linear_text(generator: torch.Generator, n_active: int = 6, d_in: int = 64) -> Text:
    """Five positions, the first of them never seen; latent 10 writes in favour of token 3.

    In 64 dimensions, the other directions hardly touch that token.
    """
    codes = torch.rand(5, n_active, generator=generator) + 0.1
    codes[0] = 0
    directions = torch.randn(n_active, d_in, generator=generator)
    unembed = torch.randn(d_in, 7, generator=generator)
    directions[0] = unembed[:, 3] - unembed.mean(1)
    directions = directions / directions.norm(dim=1, keepdim=True)
    seen = SeenPrompt(
        token_ids=torch.arange(5),
        suffix=LinearTail(torch.randn(5, d_in, generator=generator), unembed),
        latents=torch.arange(10, 10 + n_active),
        codes=codes,
        directions=directions,
        scale=torch.full((5, 1), 2.0),
    )
    return Text(seen=seen, kept=torch.tensor([False, True, True, True, True]))


# A real transformer with random weights, and a random SAE of one of its layers.


@cache
def tiny_lm() -> LM:
    config = {
        **{"model_type": "llama", "hidden_size": D_IN, "intermediate_size": 64},
        **{"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"max_position_embeddings": 64, "tie_word_embeddings": False},
    }
    return load(LanguageModel(name="tiny", source="random", licence="none", config=config))


@final
@dataclass(frozen=True, kw_only=True)
class TinySource(ModelSource):
    name = "tiny"  # pyright: ignore[reportAssignmentType]
    layer: int = 1
    window: int = 24

    def lm(self) -> LM:
        return tiny_lm()

    def site(self) -> Site:
        return Site("resid_post", self.layer)

    def eval_windows(self, n: int, seed: int) -> Sequence[Int[Tensor, " pos"]]:
        draw = make_generator(seed, "eval windows")
        return [torch.randint(0, VOCAB, (self.window,), generator=draw) for _ in range(n)]

    def dropped(
        self, token_ids: Int[Tensor, "batch pos"], acts: Float[Tensor, "batch pos d_in"]
    ) -> Bool[Tensor, "batch pos"]:
        return self.lm().special_positions(token_ids)

    def d_in(self) -> int:
        return D_IN

    def stream(self, batch_size: int, seed: int, device: torch.device) -> Stream:
        raise NotImplementedError

    def held_out(self, n: int, seed: int) -> HeldOut:
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        return {}

    def provenance(self) -> dict[str, Any]:
        return {}

    def names(self) -> dict[str, dict[str, str]]:
        return {}

    def activations_id(self) -> str:
        return ""


def random_sae(bias: float = 0.0, k: int = 8) -> SAE:
    """A TopK SAE with random weights; a bias below zero keeps latents shut."""
    sae, draw = SAE(Architecture(d_in=D_IN, d_sae=D_SAE, gate="topk", k=k)), make_generator(0, "w")
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(D_SAE, D_IN, generator=draw))
        assert sae.W_dec is not None
        sae.W_dec.copy_(torch.randn(D_SAE, D_IN, generator=draw) / 8)
        sae.b_enc.fill_(bias)
    return sae.requires_grad_(False)


@pytest.fixture
def source() -> TinySource:
    return TinySource()


@pytest.fixture
def text(source: TinySource) -> Text:
    return read(source, random_sae(), source.eval_windows(1, 7)[0])


def steering(**changes: Any) -> Steering:
    fields: dict[str, Any] = {
        **{"prompts": CutPrompts(n_prompts=3, length=10), "k": 3, "n_unrelated": 2},
        **{"scale_doses": (0.0, 1.0, 4.0), "set_doses": (1.0, 2.0)},
        **{"unrelated_length": 12, "n_samples": 1, "sample_tokens": 3},
    }
    return Steering(**(fields | changes))


def measured(seed: int = 0, **changes: Any) -> Scores:
    found = steering(**changes).measure(random_sae(), TinySource(), seed)
    assert isinstance(found, Scores)
    return found


@pytest.fixture(scope="module")
def scores() -> Scores:
    return measured()


# Interventions


def test_a_no_op_leaves_activation_and_logits_bit_equal(source, text):
    chosen = text.choose(torch.tensor([0, 2]))
    edited = text.steered(chosen, NO_OP)
    assert torch.equal(edited, text.seen.clean)
    clean = source.lm().logits(text.seen.token_ids[None])
    assert torch.equal(text.seen.suffix.logits(edited[None]), clean)


def test_an_intervention_that_changes_nothing_is_not_run(text):
    chosen = text.choose(torch.tensor([0]))
    assert list(rerun(text, chosen, [NO_OP], batch_rows=4)) == []


def test_off_is_ablation_at_every_position(source, text):
    seen, column = text.seen, torch.tensor([4])
    off = text.steered(text.choose(column), OFF)
    torch.testing.assert_close(off, seen.without(column)[0])
    latent = int(seen.latents[4])
    sae, site = random_sae(), source.site()
    written = sae(seen.clean).codes.to_dense()[:, latent, None] * sae.decoder()[latent]
    written[0] = 0  # position 0 is never edited
    by_hook = source.lm().logits(seen.token_ids[None], edit=(site, lambda acts: acts - written))
    torch.testing.assert_close(seen.suffix.logits(off[None]), by_hook, atol=1e-5, rtol=1e-5)


def test_scale_multiplies_and_set_fills_kept_positions_only(generator):
    text = linear_text(generator)
    chosen, seen = text.choose(torch.tensor([1])), text.seen
    code, largest = seen.codes[:, 1], seen.codes[:, 1].max()
    tripled = seen.clean + 2.0 * (2 * code)[:, None] * seen.directions[1]
    torch.testing.assert_close(text.steered(chosen, *scale(3.0)), tripled)
    wanted = (2 * largest - code) * text.kept
    doubled_peak = seen.clean + 2.0 * wanted[:, None] * seen.directions[1]
    torch.testing.assert_close(text.steered(chosen, *set_to(2.0)), doubled_peak)
    assert torch.equal(text.steered(chosen, *set_to(2.0))[0], seen.clean[0])


def test_a_latent_that_never_fires_has_zero_codes_and_can_only_be_set(text):
    silent = next(j for j in range(D_SAE) if j not in text.seen.latents.tolist())
    chosen = Chosen(
        latents=torch.tensor([silent]), directions=torch.ones(1, D_IN), reference=torch.ones(1)
    )
    assert torch.equal(text.codes_of(chosen.latents), torch.zeros(24, 1))
    response = respond(text, 5, chosen, [OFF, *scale(4.0), *set_to(1.0)], batch_rows=4)
    assert response.effect[:2].tolist() == [0.0, 0.0]
    assert response.effect[2].abs() > 1e-3


@pytest.mark.parametrize(
    ("mode", "dose", "message"),
    [
        ("scale", -1.0, "dose .with mode=scale. must be a number from 0, got -1.0"),
        ("set", float("inf"), "dose must be a number, got inf"),
    ],
)
def test_bad_interventions_are_rejected(mode, dose, message):
    with pytest.raises(ValueError, match=message):
        Intervention(mode=mode, dose=dose)


def test_an_unknown_mode_names_the_known_ones():
    with pytest.raises((ValueError, TypeCheckError), match="clamp"):
        Intervention(mode="clamp", dose=1.0)  # pyright: ignore[reportArgumentType]


def test_set_takes_negative_doses(generator):
    text = linear_text(generator)
    low, high = respond(
        text, 3, text.choose(torch.tensor([0])), set_to(-1.0, 1.0), batch_rows=2
    ).effect
    assert low < 0 < high


# Doses


def test_effect_is_the_gain_in_log_probability_whatever_the_batch(text):
    chosen, doses = text.choose(torch.tensor([0, 1, 2])), scale(0.0, 0.5, 1.0, 2.0, 3.0)
    clean = text.seen.suffix.logits(text.seen.clean[None], [-1])[0, -1].log_softmax(-1)
    expected = [
        text.seen.suffix.logits(text.steered(chosen, how)[None], [-1])[0, -1].log_softmax(-1)[5]
        - clean[5]
        for how in doses
    ]
    for batch_rows in (2, 3, 8):
        found = respond(text, 5, chosen, doses, batch_rows=batch_rows)
        np.testing.assert_allclose(found.effect, torch.stack(expected), atol=1e-5)
        n_batches = -(-4 // (batch_rows - 1))  # four of the five change something
        assert found.forward_equivalents == (4 + n_batches) * text.seen.suffix.fraction


def test_slope_at_the_no_op_dose_is_the_gradient(text):
    columns = torch.tensor([0, 3, 5])
    found = slope(text, 5, text.choose(columns))
    by_ranking = selectors.grad_times_act(text.seen, 5)[columns].sum().item()
    assert found.gradient == pytest.approx(by_ranking, rel=1e-4)
    assert found.difference == pytest.approx(found.gradient, rel=0.02, abs=1e-4)


def test_slope_of_a_linear_model_matches_the_softmax_derivative(generator):
    text = linear_text(generator)
    seen, chosen = text.seen, text.choose(torch.tensor([0]))
    logits = seen.suffix.logits(seen.clean[None])[0, 0]
    assert isinstance(seen.suffix, LinearTail)
    per_dose = (2.0 * seen.codes[:, 0].mean()) * seen.directions[0] @ seen.suffix.unembed
    expected = per_dose[3] - (logits.softmax(-1) * per_dose).sum()
    assert slope(text, 3, chosen).gradient == pytest.approx(expected.item(), rel=1e-4)


def test_a_planted_latent_gains_with_every_dose_and_beats_its_matched_control(generator):
    text = linear_text(generator)
    scores = selectors.grad_times_act(text.seen, 3)
    main = top(scores, 1)
    assert main.tolist() == [0]
    doses = scale(0.0, 0.5, 1.0, 2.0, 4.0)
    planted = respond(text, 3, text.choose(main), doses, batch_rows=8)
    assert bool((planted.effect.diff() > 0).all())
    control = matched(strength(text.seen), main.tolist(), generator, 1)
    other = respond(text, 3, text.choose(control.columns), doses, batch_rows=8)
    assert -planted.effect[0] > -other.effect[0]
    assert planted.effect[-1] > other.effect[-1]


# Side effects


def test_kl_rest_is_the_kl_without_the_target(generator):
    clean, edited = torch.randn(9, generator=generator), torch.randn(2, 9, generator=generator)
    p = np.delete(clean.softmax(-1).numpy(), 4)
    expected = [scipy.stats.entropy(p, np.delete(q.softmax(-1).numpy(), 4)) for q in edited]
    np.testing.assert_allclose(kl_rest(clean, edited, 4), expected, rtol=1e-5)


def test_moving_the_target_alone_costs_no_kl(generator):
    clean = torch.randn(9, generator=generator).double()
    edited = clean.clone()
    edited[4] += 3.0
    assert kl_rest(clean, torch.stack([edited, clean]), 4).tolist() == [0.0, 0.0]


def test_damage_is_the_rise_of_the_models_own_loss(source):
    lm, sae, site = source.lm(), random_sae(), source.site()
    windows = source.eval_windows(2, 3)
    texts = [read(source, sae, window) for window in windows]
    latent = int(texts[0].seen.latents[0])
    chosen = Chosen(
        latents=torch.tensor([latent]),
        directions=sae.decoder()[latent][None],
        reference=torch.tensor([1.5]),
    )
    found = UnrelatedText(texts=texts).damage(chosen, [OFF, NO_OP, *set_to(1.0)], batch_rows=2)

    def loss(change: Any) -> Tensor:
        return torch.cat([lm.loss(w[None], edit=(site, change)) for w in windows], 1).mean()

    def off(acts: Tensor) -> Tensor:
        written = sae(acts[0]).codes.to_dense()[:, latent, None] * sae.decoder()[latent]
        written[0] = 0
        return acts - written

    def filled(acts: Tensor) -> Tensor:
        return torch.cat([acts[:, :1], (off(acts) + 1.5 * sae.decoder()[latent])[:, 1:]], 1)

    clean = loss(lambda acts: acts)
    expected = [loss(off) - clean, 0.0, loss(filled) - clean]
    np.testing.assert_allclose(found.log_ppl_ratio, expected, atol=1e-5)
    assert found.log_ppl_ratio[1] == 0


def test_no_unrelated_text_is_an_error():
    with pytest.raises(ValueError, match="at least 1 text"):
        UnrelatedText(texts=[])


def test_the_root_of_twice_a_small_kl_is_the_rms_change_of_the_others(generator):
    clean = torch.randn(50, generator=generator).double()
    edited = clean + 1e-3 * torch.randn(50, generator=generator)
    kept = torch.arange(50) != 4
    p, q = clean[kept].log_softmax(-1), edited[kept].log_softmax(-1)
    rms = (p.exp() * (q - p).square()).sum().sqrt()
    assert (2 * kl_rest(clean, edited[None], 4)).sqrt().item() == pytest.approx(
        rms.item(), rel=1e-2
    )


# Selectors and controls


def matched(strengths: Tensor, chosen: list[int], draw: torch.Generator, n_nearest: int) -> Matched:
    found = match(strengths, torch.tensor(chosen), draw, n_nearest=n_nearest)
    assert isinstance(found, Matched)
    return found


def test_matching_takes_the_nearest_unused_latent_strongest_first(generator):
    strengths = torch.tensor([8.0, 4.0, 7.0, 3.9, 1.0, 3.0])
    found = matched(strengths, [1, 0], generator, 1)
    assert found.columns.tolist() == [3, 2]  # 4.0 -> 3.9 and 8.0 -> 7.0
    np.testing.assert_allclose(found.log_ratio, np.log([3.9 / 4, 7 / 8]), rtol=1e-5)


def test_matched_latents_are_never_chosen_nor_repeated(generator):
    strengths = torch.rand(40, generator=generator)
    found = matched(strengths, list(range(0, 40, 2)), generator, 5)
    assert sorted(found.columns.tolist()) == list(range(1, 40, 2))


def test_matching_says_when_too_few_latents_are_active(generator):
    found = match(torch.ones(5), torch.tensor([0, 1, 2]), generator, n_nearest=3)
    assert found == Skipped("fewer than 2 x 3 latents are active, too few to match 3 others")


def test_strength_is_the_mean_norm_of_what_a_latent_writes(generator):
    seen = linear_text(generator).seen
    written = (seen.codes * seen.scale)[:, :, None] * seen.directions
    torch.testing.assert_close(strength(seen), written.norm(dim=2).mean(0))


def test_random_directions_keep_norms_and_nothing_else(generator):
    chosen = linear_text(generator).choose(torch.tensor([0, 3]))
    drawn = random_directions(chosen, generator)
    torch.testing.assert_close(drawn.directions.norm(dim=1), chosen.directions.norm(dim=1))
    assert not torch.allclose(drawn.directions, chosen.directions)
    assert torch.equal(drawn.latents, chosen.latents)


def test_built_in_rankings_are_those_of_influence(text, generator):
    target = NextToken(token=5)
    for name, estimator in ((MAIN, GradTimesAct()), ("mean_act", MeanAct())):
        expected = estimator.scores(text.seen, target, generator)
        torch.testing.assert_close(RANKINGS[name].scores(text.seen, 5), expected)
        own = RANKINGS[name].suffix_runs * text.seen.suffix.fraction + text.read_cost
        assert own == pytest.approx(estimator.forward_equivalents(text.seen))


def test_every_selector_chooses_k_latents(text, generator):
    names = [MAIN, "mean_act", "random_matched", "random_direction"]
    found = select(text, 5, names, generator, k=4, n_nearest=3)
    latents = {
        name: set(one.chosen.latents.tolist())
        for name, one in found.items()
        if isinstance(one, Selection)
    }
    assert list(latents) == names
    assert all(len(chosen) == 4 for chosen in latents.values())
    assert latents[MAIN] == latents["random_direction"]
    assert not latents[MAIN] & latents["random_matched"]


def test_more_latents_than_are_active_is_an_error():
    with pytest.raises(UserError, match="steering 4 latents needs as many active ones, there are"):
        top(torch.ones(3), 4)


# The task


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


def test_the_same_seed_gives_the_same_scores_and_another_does_not(scores):
    assert measured() == scores
    assert measured(seed=1).scores != scores.scores


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


def test_a_no_op_continuation_is_the_models_own(source, text):
    prompt = text.seen.token_ids[:8]
    chosen = text.choose(torch.tensor([0]))
    found = continue_steered(source, random_sae(), prompt, chosen, NO_OP, 4)
    assert torch.equal(found, source.lm().generate(prompt[None], 4)[0, 8:])


def test_cost_counts_every_pass():
    found = measured(
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
    source = Superposition(n_features=4, width=2, l0=1)
    found = steering().measure(random_sae(), source, 0)
    assert isinstance(found, Skipped)
    assert "Superposition has no language model" in found.reason


def test_prompts_without_enough_active_latents_are_left_out_and_say_so():
    silent = steering().measure(random_sae(bias=-100.0), TinySource(), 0)
    assert silent == Skipped(
        "none of 3 prompts can be steered; first: no latent fires on the prompt"
    )
    few = steering(k=60).measure(random_sae(), TinySource(), 0)
    assert isinstance(few, Skipped)
    assert "fewer than k=60 latents are active" in few.reason


def test_a_control_that_cannot_be_matched_is_skipped_and_the_rest_is_scored():
    n_active = read(
        TinySource(), random_sae(), TinySource().eval_windows(1, 0)[0][:10]
    ).seen.n_active
    found = measured(k=n_active // 2 + 1, prompts=CutPrompts(n_prompts=1, length=10))
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
        ({"selectors": [MAIN, MAIN]}, "selectors must be there once each"),
        ({"scale_doses": [0.5, 1]}, r"scale_doses must hold 0 .off., got \[0.5, 1\]"),
        ({"scale_doses": [0, -1]}, "must be a number from 0, got -1.0"),
        ({"set_doses": [1, 1]}, "doses must be there once each"),
    ],
)
def test_bad_fields_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        steering(**changes)


def test_samples_that_do_not_fit_the_context_are_refused_before_the_work():
    with pytest.raises(UserError, match="sample_tokens=60 after a prompt of 10 tokens exceed"):
        measured(sample_tokens=60)


def test_unrelated_text_longer_than_the_windows_is_an_error():
    with pytest.raises(UserError, match="unrelated text of 40 tokens does not fit"):
        measured(unrelated_length=40)


@pytest.mark.parametrize("name", ["default", "quick"])
def test_the_configs_build(name):
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert isinstance(instantiate(config), Steering)


# Bootstrap


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
