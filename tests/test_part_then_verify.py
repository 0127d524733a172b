"""Part of the way exactly, then the gradient: against plain torch hooks on a tiny model."""

import pytest
import torch
from tiny_prompts import Windows, effects, estimate, random_sae, tiny_lm
from torch import Tensor

from gradsae.influence.estimators.contrib import part_then_verify
from gradsae.influence.estimators.contrib.part_then_verify import (
    PartThenVerify,
    effects_through,
    screen,
    stream_after,
)
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.gradient import gradient_cost
from gradsae.influence.target import NextToken
from gradsae.lm.sites import Site
from gradsae.prompts.seen import SeenPrompt, see_from

TARGET = NextToken(token=7)
LAYERS = (2, 3)
"""Blocks after the site of a model with four."""


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module", params=["resid_post.1", "mlp_out.1", "attn_out.1"])
def seen(lm, request) -> SeenPrompt:
    """Of a resid_post, mlp_out or attn_out site: what is counted as run differs."""
    source = Windows(lm, place=request.param)
    return see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])


def streams(lm, seen: SeenPrompt, activation: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """The stream after a block and the log-probability, with the site's output replaced: a full
    pass with torch's own hooks."""
    kept: list[Tensor] = []
    site = seen.rerun.site

    def give(output: Tensor | tuple[Tensor, ...], value: Tensor | None) -> Tensor | tuple:
        hidden = output[0] if isinstance(output, tuple) else output
        if value is None:
            kept.append(hidden.detach().requires_grad_())
            value = kept[0]
        return (value, *output[1:]) if isinstance(output, tuple) else value

    handles = [
        lm.decoder.module(site).register_forward_hook(
            lambda _m, _a, out: give(out, activation[None])
        ),
        lm.decoder.module(Site("resid_post", layer)).register_forward_hook(
            lambda _m, _a, out: give(out, None)
        ),
    ]
    logits = lm.decoder.model(input_ids=seen.token_ids[None]).logits
    for handle in handles:
        handle.remove()
    return kept[0], logits[0, -1].log_softmax(-1)[TARGET.token]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_stream_after_a_later_block_is_that_of_a_full_pass(lm, seen, layer):
    edited = seen.without(torch.arange(3))
    start = int(seen.first_open(torch.arange(3)).min())
    with torch.no_grad():
        expected = torch.cat([streams(lm, seen, one, layer)[0] for one in edited])
        found = stream_after(seen.rerun, edited, layer, start=start)
    torch.testing.assert_close(found, expected[:, -found.shape[1] :], atol=1e-5, rtol=1e-5)
    assert found.shape[1] == len(seen.codes) - seen.rerun.rerun_start(start)


@pytest.mark.parametrize("layer", LAYERS)
def test_scores_are_the_change_of_the_later_stream_times_the_gradient_there(lm, seen, layer):
    columns = torch.tensor([0, 3, 4])
    scores, gradient = screen(seen, TARGET, layer)
    torch.testing.assert_close(scores, estimate(GradTimesAct(), seen, TARGET))
    assert gradient is not None
    found = effects_through(seen, TARGET, layer, gradient, columns)
    stream, log_prob = streams(lm, seen, seen.clean, layer)
    (slope,) = torch.autograd.grad(log_prob, stream)
    with torch.no_grad():
        gone = [stream - streams(lm, seen, one, layer)[0] for one in seen.without(columns)]
    expected = torch.stack([(each * slope).sum() for each in gone])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_with_enough_to_spend_every_latent_is_ablated(seen):
    estimator = PartThenVerify(max_cost=1000.0, until=0.5)
    found = estimate(estimator, seen, TARGET)
    torch.testing.assert_close(found, effects(seen, TARGET), atol=1e-5, rtol=1e-5)
    assert estimator.forward_equivalents(seen) < 100


def test_with_nothing_left_after_the_screen_it_is_the_gradient(seen):
    estimator = PartThenVerify(max_cost=1.1)
    torch.testing.assert_close(
        estimate(estimator, seen, TARGET), estimate(GradTimesAct(), seen, TARGET)
    )
    assert estimator.forward_equivalents(seen) == gradient_cost(seen)


@pytest.mark.parametrize("max_cost", [6.0, 6.5, 7.0])
def test_what_is_ablated_and_what_goes_part_of_the_way_is_paid_for(seen, max_cost, monkeypatch):
    """Screen, one unedited row of each kind, then each latent for the positions it is open on."""
    parts: list[Tensor] = []

    def kept(seen: SeenPrompt, *args) -> Tensor:
        parts.append(args[-1])
        return effects_through(seen, *args)

    monkeypatch.setattr(part_then_verify, "effects_through", kept)
    estimator = PartThenVerify(max_cost=max_cost, until=0.5)
    found, truth = estimate(estimator, seen, TARGET), effects(seen, TARGET)
    whole = torch.isclose(found, truth, rtol=1e-4, atol=1e-6).nonzero()[:, 0]
    share = 1 - seen.first_open(torch.arange(seen.n_active)) / len(seen.codes)
    fraction = seen.rerun.fraction
    through = fraction - 0.25  # block 2 of 0 to 3 is one short of the end
    spent = 1 + 2 * fraction + through * (1 + share[parts[0]].sum())
    spent = float(spent + fraction * (1 + share[whole].sum()))
    assert max_cost - fraction - 0.01 < spent <= max_cost + 1e-5
    assert estimator.forward_equivalents(seen) == pytest.approx(max_cost)


def test_a_site_after_the_middle_has_no_part_to_go(lm):
    source = Windows(lm, place="resid_post.2")
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])
    scores, gradient = screen(seen, TARGET, None)
    assert gradient is None
    found = estimate(PartThenVerify(max_cost=4.0), seen, TARGET)
    changed = found != scores
    assert 0 < int(changed.sum()) < seen.n_active
    torch.testing.assert_close(found[changed], effects(seen, TARGET)[changed], atol=1e-5, rtol=1e-5)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="max_cost must be a number above 1, got 1"):
        PartThenVerify(max_cost=1.0)
    with pytest.raises(ValueError, match="kept is a share between 0 and 1"):
        PartThenVerify(kept=1.5)
