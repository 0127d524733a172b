"""Influence: the scalars that are explained, and ablation against a plain loop with torch hooks."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_prompts import (
    PlainRerun,
    Windows,
    effects,
    estimate,
    planted,
    random_sae,
    tiny_lm,
)
from torch import Tensor, nn

from gradsae.errors import UserError
from gradsae.influence.ablation import ablate, rounding_noise
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.released_gradsae import ReleasedGradSAE
from gradsae.influence.target import NextToken, Scalar, runner_up
from gradsae.prompts.seen import SeenPrompt, see_from
from gradsae.seeds import make_generator

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


def hook_loop(lm, module: nn.Module, seen: SeenPrompt, sae, token: int) -> list[float]:
    """One full forward per latent; the codes are worked out anew, entry by entry."""
    with torch.no_grad():
        pre = (seen.clean - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    codes = torch.zeros_like(pre)
    for row, values in enumerate(pre):
        if row > 0:  # position 0 is dropped
            top = values.topk(sae.most_open)
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
    assert found.n_reruns == 4 + 2


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, 2.0**-23), (torch.bfloat16, 2.0**-7)])
def test_noise_is_that_of_random_rounding_in_the_models_dtype(dtype, eps):
    """A sum of 2,000 ones, each off by u eps with |u| < 1: variance about eps^2 / 3 each."""
    seen = planted(torch.ones(20, 1), torch.ones(1, 100), torch.sum)
    rerun = PlainRerun(torch.ones(20, 100, dtype=dtype), lambda x: x.double().sum((1, 2))[:, None])
    noise = rounding_noise(
        replace(seen, rerun=rerun), NextToken(token=0, scalar="logit"), make_generator(0, "test")
    )
    expected = eps * math.sqrt(2000 / 3)
    assert expected / 2 < noise < expected * 2


def test_non_finite_logits_are_an_error():
    broken = planted(torch.ones(2, 3), torch.ones(3, 2), lambda x: x.sum(1) / 0)
    for run in (effects, lambda s, t: estimate(GradTimesAct(), s, t)):
        with pytest.raises(UserError, match="not a finite number"):
            run(broken, NextToken(token=0, scalar="logit"))
