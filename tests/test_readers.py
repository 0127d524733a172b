"""Norms that read the stream: which they are, and what their exact part is worth."""

import pytest
import torch
from tiny_models import KINDS, random_lm
from tiny_prompts import Windows, effects, estimate, random_sae

from gradsae.influence.estimators.contrib.norm_exact import NormExact
from gradsae.influence.estimators.contrib.norm_readers import Reader, watch_norms
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.gradient import gradient_and
from gradsae.influence.target import KLToClean, NextToken
from gradsae.prompts.seen import SeenPrompt, see_from
from gradsae.seeds import make_generator

LOGIT = NextToken(token=7, scalar="logit")
PRE_NORM = ("llama", "gpt2", "neox_parallel", "neox_sequential", "gemma2", "gemma3")


def seen_by(architecture: str, place: str) -> SeenPrompt:
    source = Windows(random_lm(architecture), place)
    return see_from(source, random_sae(), source.eval_windows(1, 0)[0][:8])


def slope_at_site(seen: SeenPrompt) -> tuple[torch.Tensor, list[Reader], list[torch.Tensor]]:
    with watch_norms(seen.rerun) as readers:
        others = gradient_and(
            seen, LOGIT, seen.codes[None], lambda site: [site, *(each.out for each in readers)]
        )[1]
    return others[0][0], readers, [slope[0] for slope in others[1:]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", PRE_NORM)
def test_the_gradient_is_the_sum_of_what_the_readers_hand_back(architecture, kind):
    """So none is missed, and nothing else is taken for one."""
    whole, readers, slopes = slope_at_site(seen_by(architecture, f"{kind}.1"))
    parts = torch.zeros_like(whole)
    for reader, slope in zip(readers, slopes, strict=True):
        leaf = reader.stream.clone().requires_grad_()
        parts += torch.autograd.grad(reader.norm(leaf), leaf, slope)[0]
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)
    own = kind == "attn_out" and architecture != "neox_parallel"  # the MLP of the site's own block
    assert len(readers) == 2 * 2 + 1 + own


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_after_the_last_block_a_logit_is_the_exact_norm_and_a_linear_map(architecture):
    seen = seen_by(architecture, "resid_post.3")
    truth = effects(seen, LOGIT)
    torch.testing.assert_close(estimate(NormExact(), seen, LOGIT), truth, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(estimate(GradTimesAct(), seen, LOGIT), truth, atol=1e-3)


def test_a_norm_bends_by_the_formula_of_rms_norm_less_its_first_order():
    seen = seen_by("llama", "resid_post.1")
    _, readers, slopes = slope_at_site(seen)
    reader, slope = readers[2], slopes[2]
    gain, eps = reader.norm.weight, 1e-6  # of this config
    assert isinstance(gain, torch.Tensor) and reader.norm.variance_epsilon == eps
    at = torch.tensor([3, 5])
    gone = torch.randn(2, 32, generator=make_generator(0, "test")).double()
    x, g = reader.stream.double()[at], (gain * slope).detach().double()[at]
    size, less = ((v.square().mean(1) + eps).sqrt() for v in (x, x - gone))
    exact = (g * x).sum(1) / size - (g * (x - gone)).sum(1) / less
    first = (g * gone).sum(1) / size - (g * x).sum(1) * (x * gone).sum(1) / (32 * size**3)
    found = reader.bend(slope, at, gone.float())
    torch.testing.assert_close(found, (exact - first).float(), atol=1e-6, rtol=1e-4)


def test_a_flat_target_is_refused_as_by_the_gradient():
    """All that it knows of the target are slopes of the clean pass, which are zero there."""
    flat = KLToClean(token=7, clean=torch.zeros(1, 256))
    assert NormExact().why_not(flat)


def test_a_model_in_half_precision_has_its_norms_taken_in_single():
    source = Windows(random_lm("gpt2", dtype="bfloat16"), "resid_post.1")
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:8])
    exact, plain = (estimate(each, seen, LOGIT) for each in (NormExact(), GradTimesAct()))
    assert exact.dtype == torch.float32 and exact.isfinite().all()
    assert (exact - plain).norm() < 0.5 * plain.norm()
