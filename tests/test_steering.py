"""Steering: edits do what they say, side effects are measured right, controls are matched."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from jaxtyping import TypeCheckError
from tiny_prompts import PlainRerun, Windows, random_sae, tiny_lm
from torch import Tensor
from torch.nn.functional import cross_entropy

from gradsae.errors import UserError
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.mean_act import MeanAct
from gradsae.influence.target import NextToken
from gradsae.interfaces import Skipped
from gradsae.prompts.seen import SeenPrompt
from gradsae.sae.model import SAE
from gradsae.steering.doses import respond, slope
from gradsae.steering.interventions import OFF, Chosen, Intervention, Text, read, run_steered
from gradsae.steering.matched import Matched, match, strength, with_random_directions
from gradsae.steering.samples import continue_steered
from gradsae.steering.selectors import MAIN, Selection, select, top
from gradsae.steering.side_effects import UnrelatedText, kl_rest

NO_OP = Intervention(mode="scale", dose=1.0)


def scale(*doses: float) -> list[Intervention]:
    return [Intervention(mode="scale", dose=dose) for dose in doses]


def set_to(*doses: float) -> list[Intervention]:
    return [Intervention(mode="set", dose=dose) for dose in doses]


@pytest.fixture(scope="module")
def source() -> Windows:
    return Windows(tiny_lm())


@pytest.fixture(scope="module")
def sae() -> SAE:
    return random_sae(k=8).requires_grad_(False)


@pytest.fixture(scope="module")
def text(source, sae) -> Text:
    return read(source, sae, source.eval_windows(1, 7)[0])


def linear_text(generator: torch.Generator, d_in: int = 64) -> tuple[Text, Tensor]:
    """Five positions, the first never seen, six latents; the logits are the mean @ unembed.

    Latent 10 writes in favour of token 3; in 64 dimensions the others hardly touch that token.
    """
    codes = torch.rand(5, 6, generator=generator) + 0.1
    codes[0] = 0
    directions = torch.randn(6, d_in, generator=generator)
    unembed = torch.randn(d_in, 7, generator=generator)
    directions[0] = unembed[:, 3] - unembed.mean(1)
    clean = torch.randn(5, d_in, generator=generator)
    seen = SeenPrompt(
        token_ids=torch.arange(5),
        rerun=PlainRerun(clean, lambda x: x.mean(1) @ unembed),
        latents=torch.arange(10, 16),
        codes=codes,
        directions=directions / directions.norm(dim=1, keepdim=True),
        scale=torch.full((5, 1), 2.0),
    )
    return Text(seen=seen, is_kept=torch.tensor([False, True, True, True, True])), unembed


# Interventions


def test_a_no_op_leaves_activation_and_logits_bit_equal(source, text):
    chosen = text.choose(torch.tensor([0, 2]))
    edited = text.steered(chosen, NO_OP)
    assert torch.equal(edited, text.seen.clean)
    clean = source.lm().logits(text.seen.token_ids[None])
    assert torch.equal(text.seen.rerun.logits(edited[None]), clean)


def test_an_intervention_that_changes_nothing_is_not_run(text):
    chosen = text.choose(torch.tensor([0]))
    assert list(run_steered(text, chosen, [NO_OP], batch_rows=4)) == []


def test_off_is_ablation_at_every_position(source, sae, text):
    seen, column = text.seen, torch.tensor([4])
    off = text.steered(text.choose(column), OFF)
    torch.testing.assert_close(off, seen.without(column)[0])
    latent = int(seen.latents[4])
    site = source.site()
    written = sae(seen.clean).codes.to_dense()[:, latent, None] * sae.decoder()[latent]
    written[0] = 0  # position 0 is never edited
    by_hook = source.lm().logits(seen.token_ids[None], edit=(site, lambda acts: acts - written))
    torch.testing.assert_close(seen.rerun.logits(off[None]), by_hook, atol=1e-5, rtol=1e-5)


def test_scale_multiplies_and_set_fills_kept_positions_only(generator):
    text, _ = linear_text(generator)
    chosen, seen = text.choose(torch.tensor([1])), text.seen
    code, largest = seen.codes[:, 1], seen.codes[:, 1].max()
    tripled = seen.clean + 2.0 * (2 * code)[:, None] * seen.directions[1]
    torch.testing.assert_close(text.steered(chosen, *scale(3.0)), tripled)
    wanted = (2 * largest - code) * text.is_kept
    doubled_peak = seen.clean + 2.0 * wanted[:, None] * seen.directions[1]
    torch.testing.assert_close(text.steered(chosen, *set_to(2.0)), doubled_peak)
    assert torch.equal(text.steered(chosen, *set_to(2.0))[0], seen.clean[0])


def test_a_latent_that_never_fires_has_zero_codes_and_can_only_be_set(text):
    silent = next(j for j in range(64) if j not in text.seen.latents.tolist())
    chosen = Chosen(
        latents=torch.tensor([silent]), directions=torch.ones(1, 32), reference=torch.ones(1)
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
    text, _ = linear_text(generator)
    low, high = respond(
        text, 3, text.choose(torch.tensor([0])), set_to(-1.0, 1.0), batch_rows=2
    ).effect
    assert low < 0 < high


# Doses


def test_effect_is_the_gain_in_log_probability_whatever_the_batch(text):
    chosen, doses = text.choose(torch.tensor([0, 1, 2])), scale(0.0, 0.5, 1.0, 2.0, 3.0)
    clean = text.seen.rerun.logits(text.seen.clean[None], [-1])[0, -1].log_softmax(-1)
    expected = [
        text.seen.rerun.logits(text.steered(chosen, how)[None], [-1])[0, -1].log_softmax(-1)[5]
        - clean[5]
        for how in doses
    ]
    for batch_rows in (2, 3, 8):
        found = respond(text, 5, chosen, doses, batch_rows=batch_rows)
        np.testing.assert_allclose(found.effect, torch.stack(expected), atol=1e-5)
        n_batches = -(-4 // (batch_rows - 1))  # four of the five change something
        assert found.forward_equivalents == (4 + n_batches) * text.seen.rerun.fraction


def test_slope_at_the_no_op_dose_is_the_gradient(text):
    columns = torch.tensor([0, 3, 5])
    found = slope(text, 5, text.choose(columns))
    scores = GradTimesAct().scores(text.seen, NextToken(token=5), torch.Generator())
    by_ranking = scores[columns].sum().item()
    assert found.gradient == pytest.approx(by_ranking, rel=1e-4)
    assert found.difference == pytest.approx(found.gradient, rel=0.02, abs=1e-4)


def test_slope_of_a_linear_model_matches_the_softmax_derivative(generator):
    text, unembed = linear_text(generator)
    seen, chosen = text.seen, text.choose(torch.tensor([0]))
    logits = seen.rerun.logits(seen.clean[None])[0, 0]
    per_dose = (2.0 * seen.codes[:, 0].mean()) * seen.directions[0] @ unembed
    expected = per_dose[3] - (logits.softmax(-1) * per_dose).sum()
    assert slope(text, 3, chosen).gradient == pytest.approx(expected.item(), rel=1e-4)


def test_a_planted_latent_gains_with_every_dose_and_beats_its_matched_control(generator):
    text, _ = linear_text(generator)
    scores = GradTimesAct().scores(text.seen, NextToken(token=3), generator)
    main = top(scores, 1)
    assert main.tolist() == [0]
    doses = scale(0.0, 0.5, 1.0, 2.0, 4.0)
    planted = respond(text, 3, text.choose(main), doses, batch_rows=8)
    assert bool((planted.effect.diff() > 0).all())
    control = matched(strength(text.seen), main.tolist(), generator, 1)
    other = respond(text, 3, text.choose(control.columns), doses, batch_rows=8)
    assert -planted.effect[0] > -other.effect[0]
    assert planted.effect[-1] > other.effect[-1]


def test_a_no_op_continuation_is_the_models_own(source, sae, text):
    prompt = text.seen.token_ids[:8]
    chosen = text.choose(torch.tensor([0]))
    found = continue_steered(source, sae, prompt, chosen, NO_OP, 4)
    assert torch.equal(found, source.lm().generate(prompt[None], 4)[0, 8:])


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


def test_damage_is_the_rise_of_the_models_own_loss(source, sae):
    lm, site = source.lm(), source.site()
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
        logits = (lm.logits(w[None], edit=(site, change))[0, :-1] for w in windows)
        losses = [cross_entropy(x, w[1:]) for x, w in zip(logits, windows, strict=True)]
        return torch.stack(losses).mean()

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
    seen = linear_text(generator)[0].seen
    written = (seen.codes * seen.scale)[:, :, None] * seen.directions
    torch.testing.assert_close(strength(seen), written.norm(dim=2).mean(0))


def test_random_directions_keep_norms_and_nothing_else(generator):
    chosen = linear_text(generator)[0].choose(torch.tensor([0, 3]))
    drawn = with_random_directions(chosen, generator)
    torch.testing.assert_close(drawn.directions.norm(dim=1), chosen.directions.norm(dim=1))
    assert not torch.allclose(drawn.directions, chosen.directions)
    assert torch.equal(drawn.latents, chosen.latents)


def test_rankings_choose_the_top_of_their_estimator_at_its_cost(text, generator):
    found = select(text, 5, [MAIN, "mean_act"], generator, k=4, n_nearest=3)
    for name, estimator in ((MAIN, GradTimesAct()), ("mean_act", MeanAct())):
        scores = estimator.scores(text.seen, NextToken(token=5), generator)
        one = found[name]
        assert isinstance(one, Selection)
        expected = text.choose(scores.argsort(descending=True)[:4])
        assert sorted(one.chosen.latents.tolist()) == sorted(expected.latents.tolist())
        spent = one.forward_equivalents + text.read_cost
        assert spent == pytest.approx(estimator.forward_equivalents(text.seen))


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
