"""Backward rules: the forward pass keeps every bit, the gradient is what each rule says."""

import pytest
import torch
from tiny_models import random_lm
from tiny_prompts import Windows, estimate, random_sae, tiny_lm
from torch import Tensor, nn

from gradsae.errors import UserError
from gradsae.influence.estimators.contrib.backward_rules import Rules, Switch, changed_backward
from gradsae.influence.estimators.contrib.grad_drop import GradDrop
from gradsae.influence.estimators.contrib.norm_frozen import NormFrozen
from gradsae.influence.estimators.contrib.relp import RelP
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.gradient import gradient
from gradsae.influence.target import NextToken
from gradsae.prompts.seen import SeenPrompt, see_from

TARGET = NextToken(token=7)
EVERYTHING = Rules(norms=True, secants=True, halves=True, attention=True, switch=Switch())


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


def seen_by(lm, place: str = "resid_post.1") -> SeenPrompt:
    source = Windows(lm, place)
    return see_from(source, random_sae(), source.eval_windows(1, 0)[0][:8])


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_no_rule_changes_a_bit_of_the_forward_pass_and_none_stays_behind(architecture):
    seen = seen_by(random_lm(architecture))
    rerun, edited = seen.rerun, seen.without(torch.arange(2))
    before = rerun.logits(edited)
    with changed_backward(rerun, EVERYTHING):
        assert torch.equal(rerun.logits(edited), before)
    plain = gradient(seen, TARGET, seen.codes[None])
    assert estimate(NormFrozen(), seen, TARGET).isfinite().all()
    assert torch.equal(gradient(seen, TARGET, seen.codes[None]), plain)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_after_the_last_block_frozen_norms_leave_one_linear_map(architecture):
    """log p is then head(gain * x / constant): its gradient by hand from the model's weights."""
    lm = random_lm(architecture)
    seen = seen_by(lm, "resid_post.3")
    x = seen.clean[-1].double()
    if architecture == "gpt2":
        norm = lm.model.transformer.ln_f
        centred, scale = x - x.mean(), (x.var(unbiased=False) + norm.eps).sqrt()
        gain, bias = norm.weight.double(), norm.bias.double()
    else:
        norm = lm.model.model.norm
        eps = norm.eps if architecture == "gemma3" else norm.variance_epsilon
        centred, scale = x, (x.square().mean() + eps).sqrt()
        gain = norm.weight.double() + (1 if architecture == "gemma3" else 0)
        bias = torch.zeros(())
    head = lm.model.lm_head.weight.double()
    logits = head @ (centred / scale * gain + bias)
    by_logit = torch.nn.functional.one_hot(torch.tensor(7), len(logits)) - logits.softmax(0)
    by_x = (by_logit @ head) * gain / scale
    if architecture == "gpt2":
        by_x = by_x - by_x.mean()
    expected = (seen.codes[-1].double() * (seen.directions.double() @ by_x)).float()
    found = estimate(NormFrozen(), seen, TARGET)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, estimate(GradTimesAct(), seen, TARGET), rtol=1e-2, atol=1e-4)


def test_a_secant_and_halves_hand_back_what_the_gated_product_is_worth():
    """One gated MLP, no norms, no attention: RelP's x . gradient is its output, by construction."""
    lm = tiny_lm()
    mlp = lm.model.model.layers[3].mlp
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    hooks = [
        pair
        for pair in Rules(secants=True, halves=True).in_block(3, lm.model.model.layers[3], [])
        if pair[0] in set(mlp.modules())
    ]
    assert len(hooks) == 3
    with lm.decoder.hooked(hooks):
        out = mlp(x).sum()
        (grad,) = torch.autograd.grad(out, x)
    assert (grad * x).sum().item() == pytest.approx(out.item(), rel=1e-4)
    (plain,) = torch.autograd.grad(mlp(x).sum(), x)
    assert (plain * x).sum().item() != pytest.approx(out.item(), rel=0.1)


def test_frozen_attention_has_no_gradient_through_queries_and_keys(lm):
    """With the patterns constant, the last block's attention is linear: its value path alone."""
    seen = seen_by(lm, "resid_post.2")
    rerun = seen.rerun
    leaks: list[Tensor] = []
    attention = lm.model.model.layers[3].self_attn

    def watch(_module: nn.Module, _args: object, output: Tensor) -> None:
        leaks.append(output)

    handles = [m.register_forward_hook(watch) for m in (attention.k_proj, attention.v_proj)]
    with changed_backward(rerun, Rules(attention=True)):
        gradient(seen, TARGET, seen.codes[None])
    for handle in handles:
        handle.remove()
    keys, values = leaks
    assert values.requires_grad
    assert keys.requires_grad  # the watcher runs before the rule; what goes on is detached
    plain = estimate(GradTimesAct(), seen, TARGET)
    with changed_backward(rerun, Rules(attention=True)):
        frozen = estimate(GradTimesAct(), seen, TARGET)
    assert not torch.allclose(plain, frozen, rtol=1e-3)


def without_block(lm, seen: SeenPrompt, layer: int, *, mlp_only: bool = False) -> Tensor:
    """Gradient x activation with one block's halves detached by torch hooks of our own."""
    block = lm.model.model.layers[layer]
    halves = (block.mlp,) if mlp_only else (block.self_attn, block.mlp)

    def detach(_module, _args, output):
        return (output[0].detach(), *output[1:]) if isinstance(output, tuple) else output.detach()

    handles = [m.register_forward_hook(detach) for m in halves]
    scores = estimate(GradTimesAct(), seen, TARGET)
    for handle in handles:
        handle.remove()
    return scores


def test_grad_drop_drops_each_later_block_in_turn(lm):
    seen = seen_by(lm, "resid_post.0")
    expected = torch.stack([without_block(lm, seen, layer).abs() for layer in (1, 2, 3)]).mean(0)
    torch.testing.assert_close(estimate(GradDrop(), seen, TARGET), expected, atol=1e-6, rtol=1e-4)


def test_after_attention_the_mlp_of_the_same_block_is_the_first_to_be_dropped(lm):
    seen = seen_by(lm, "attn_out.2")
    own, last = without_block(lm, seen, 2, mlp_only=True), without_block(lm, seen, 3)
    expected = (own.abs() + last.abs()) / 2
    torch.testing.assert_close(estimate(GradDrop(), seen, TARGET), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["attn_out", "mlp_out"])
def test_no_rule_touches_the_edit_even_where_the_site_is_a_norm(kind):
    """In Gemma 3 both halves end in a norm; freezing that would cut the edit off."""
    lm = random_lm("gemma3", initializer_range=0.3)
    seen = seen_by(lm, f"{kind}.3")
    found = estimate(NormFrozen(), seen, TARGET)
    assert found.abs().max() > 1e-4
    rerun, edited = seen.rerun, seen.without(torch.arange(2))
    before = rerun.logits(edited)
    with changed_backward(rerun, EVERYTHING):
        assert torch.equal(rerun.logits(edited), before)


def test_after_the_last_block_there_is_nothing_to_drop(lm):
    seen = seen_by(lm, "resid_post.3")
    expected = estimate(GradTimesAct(), seen, TARGET).abs()
    torch.testing.assert_close(estimate(GradDrop(), seen, TARGET), expected)
    assert GradDrop().forward_equivalents(seen) == 1


def test_the_lens_reads_a_direction_through_norm_and_head(lm):
    seen = seen_by(lm)
    x = seen.directions[:3].double()
    normed = x / (x.square().mean(-1, keepdim=True) + lm.model.model.norm.variance_epsilon).sqrt()
    expected = (normed * lm.model.model.norm.weight) @ lm.model.lm_head.weight.double().T
    found = seen.rerun.logit_lens(seen.directions[:3])
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=1e-4)


def test_fused_projections_cannot_be_frozen():
    seen = seen_by(random_lm("gpt2"))
    with pytest.raises(UserError, match="has no q_proj and k_proj: its attention cannot be frozen"):
        estimate(RelP(freeze_attention=True), seen, TARGET)
