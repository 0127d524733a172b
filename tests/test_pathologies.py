"""Where the plain gradient fails, planted one by one, and the fix that finds the latent."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from tiny_prompts import PlainRerun, Windows, effects, estimate, planted, random_sae, tiny_lm
from torch import Tensor

from gradsae.influence.ablation import ablate, no_op_noise
from gradsae.influence.estimators.contrib import grad_drop
from gradsae.influence.estimators.contrib.backward_rules import Rules
from gradsae.influence.estimators.contrib.curvature import Curvature, reliability, self_curvature
from gradsae.influence.estimators.contrib.grad_drop import GradDrop
from gradsae.influence.estimators.contrib.norm_exact import NormExact
from gradsae.influence.estimators.contrib.norm_frozen import NormFrozen
from gradsae.influence.estimators.contrib.path_ig import PathIG
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.estimators.hop_then_verify import HopThenVerify
from gradsae.influence.estimators.integrated_gradients import IntegratedGradients
from gradsae.influence.estimators.screen_then_verify import ScreenThenVerify
from gradsae.influence.gradient import gradient
from gradsae.influence.target import NextToken
from gradsae.influence.truth import PreparedTruth, PromptContext, Truth
from gradsae.influence.truths.baseline import Baseline
from gradsae.influence.truths.dose import Dose
from gradsae.influence.truths.joint import Joint
from gradsae.influence.truths.shapley import Shapley
from gradsae.interfaces import HeldOut
from gradsae.lm.model import LM
from gradsae.prompts.seen import SeenPrompt, see_from
from gradsae.seeds import make_generator

LOGIT = NextToken(token=0, scalar="logit")
PLAIN, PATH = GradTimesAct(), PathIG(budget=99, n_points=16)


def one_row(function: Callable[[Tensor], Tensor], n_active: int) -> SeenPrompt:
    """One position, latents of value 1 along the axes; `function` of them is the logit."""
    return planted(
        torch.ones(1, n_active), torch.eye(n_active), lambda x: function(x[:, -1])[:, None]
    )


def prepare(truth: Truth, seen: SeenPrompt, held_out: Tensor | None = None) -> PreparedTruth:
    sae = random_sae(d_in=seen.directions.shape[1], d_sae=len(seen.latents), k=1)

    @dataclass(frozen=True)
    class Rows(Windows):
        def held_out(self, n: int, seed: int) -> HeldOut:
            assert held_out is not None
            return HeldOut(held_out)

    kept = torch.ones(len(seen.codes), dtype=torch.bool)
    source = Rows(tiny_lm())
    context = PromptContext(seen=seen, is_kept=kept, sae=sae, source=source, seed=0, max_units=None)
    found = truth.prepare(context, make_generator(0, "test"))
    assert isinstance(found, PreparedTruth)
    return found


def test_output_saturation_hides_every_latent_of_a_sure_token_and_a_logit_difference_shows_them():
    """p = 1 - 1e-9: neither it nor its logarithm has a gradient left; the path to p has."""
    weight = torch.tensor([1.0, 12.0, 8.0])

    def function(x: Tensor) -> Tensor:
        return torch.stack([x[:, -1] @ weight, torch.zeros(len(x))], dim=1)

    seen = planted(torch.ones(1, 3), torch.eye(3), function)
    truth = effects(seen, NextToken(token=0))
    assert truth.argmax() == 1
    for scalar in ("prob", "log_prob"):
        assert estimate(PLAIN, seen, NextToken(token=0, scalar=scalar)).abs().max() < 1e-6
    difference = NextToken(token=0, scalar="logit_diff", foil=1)
    assert estimate(PLAIN, seen, difference).argmax() == 1
    assert estimate(IntegratedGradients(n_points=8), seen, NextToken(token=0)).argmax() == 1


def test_attention_saturation_hides_the_latent_that_holds_the_attention():
    """Scores 30 a0 and 15: attention is all on the first value. Without a0 it is all elsewhere."""

    def function(a: Tensor) -> Tensor:
        pattern = torch.stack([30 * a[:, 0], 15 + 0 * a[:, 0]], dim=1).softmax(1)
        return pattern @ torch.tensor([5.0, -5.0]) + 0.1 * a[:, 1] + 0.2 * a[:, 2]

    seen = one_row(function, 3)
    assert effects(seen, LOGIT)[0] == pytest.approx(10, rel=1e-3)
    assert estimate(PLAIN, seen, LOGIT).argmin() == 0
    for fix in (IntegratedGradients(n_points=8), PATH):
        found = estimate(fix, seen, LOGIT)
        assert found.argmax() == 0 and found[0] == pytest.approx(10, rel=0.2)


def one_head(lm: LM) -> None:
    """Leave of the blocks after block 1 one head of block 2 that all queries use alike: its keys
    read coordinate 1 of the stream, its values coordinate 2, and it writes to coordinate 3."""
    with torch.no_grad():
        for block in lm.model.model.layers[2:]:
            block.mlp.down_proj.weight.zero_()
            block.self_attn.o_proj.weight.zero_()
        head = lm.model.model.layers[2].self_attn
        for part in (head.q_proj, head.k_proj, head.v_proj):
            part.weight.zero_()
        head.q_proj.weight[3, 0] = head.k_proj.weight[3, 1] = 20.0  # the slowest of its rotations
        head.v_proj.weight[0, 2] = head.o_proj.weight[3, 0] = 5.0
        lm.model.lm_head.weight[7] = torch.eye(32)[3]


def test_a_softmax_that_is_full_hides_the_latent_that_fills_it_and_the_qk_fix_shows_it():
    """Latent 0 holds a head's attention at position 2, where the value is 1; elsewhere it is -1."""
    lm = tiny_lm()
    one_head(lm)
    source = Windows(lm, "resid_post.1")
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:6])
    clean = torch.zeros(6, 32)
    clean[:, 0], clean[:, 2], clean[:, 4] = 3.0, -1.0, 30.0  # mostly what nobody reads: a norm
    clean[2, 1], clean[2, 2] = 3.0, 1.0
    codes = torch.zeros(6, 3)
    codes[2, 0] = codes[5, 1] = codes[4, 2] = 1.0
    directions = torch.stack([3 * torch.eye(32)[1], 0.1 * torch.eye(32)[3], torch.eye(32)[5]])
    seen = replace(
        seen,
        latents=torch.arange(3),
        codes=codes,
        directions=directions,
        scale=torch.ones(6, 1),
        rerun=replace(seen.rerun, clean=clean),
    )
    target = NextToken(token=7, scalar="logit")
    truth = effects(seen, target)
    assert truth.argmax() == 0 and truth[0] > 10 * truth[1]
    assert estimate(PLAIN, seen, target).argmax() == 1  # the gradient finds another one
    assert estimate(PLAIN, seen, target)[0].abs() < 0.05 * truth[0]
    fixed = estimate(HopThenVerify(max_cost=20.0, largest=0.0, hops=1.0), seen, target)
    torch.testing.assert_close(fixed, truth, atol=1e-4, rtol=0.02)


class Stream(PlainRerun):
    """A residual stream whose later blocks can be dropped from the gradient."""

    def __init__(
        self,
        clean: Tensor,
        function: Callable[[Tensor], Tensor],
        blocks: list[Callable[[Tensor], Tensor]],
    ) -> None:
        super().__init__(clean, function)
        self.blocks: list[Callable[[Tensor], Tensor]] = blocks
        self.rules: Rules | None = None

    @property
    def later_blocks(self) -> range:
        return range(len(self.blocks))

    @contextmanager
    def backward(self, rules: Rules) -> Iterator[None]:
        self.rules = rules
        yield
        self.rules = None

    def logits(
        self, activation: Tensor, positions: Sequence[int] | None = None, *, start: int = 0
    ) -> Tensor:
        x = activation[:, -1]
        for layer, block in enumerate(self.blocks):
            added = block(x)
            switch = self.rules.switch if self.rules else None
            if switch is not None:
                added.register_hook(lambda g, i=layer, s=switch: g * 0 if s.layer == i else None)
            x = x + added
        return vars(self)["function"](x)[:, None]


def test_cancelling_paths_hide_a_latent_and_dropping_one_block_at_a_time_shows_it(monkeypatch):
    """Block 0 takes back what latent 0 adds, with slope 1 at the clean point but not on the way."""

    def takes_back(x: Tensor) -> Tensor:
        taken = -10 * torch.sigmoid(4 * (x[:, 0] - 1)) / 10  # slope -1 at x = 1; -0.5 + 0.018 to 0
        return torch.cat([taken[:, None], torch.zeros_like(x[:, 1:])], dim=1)

    seen = one_row(lambda a: a[:, 0], 3)
    rerun = Stream(
        seen.rerun.clean,
        lambda x: (x @ torch.tensor([1.0, 0.05, -0.1]))[:, None],
        blocks=[takes_back, lambda x: 0.0 * x],
    )
    seen = replace(seen, rerun=rerun)
    truth = effects(seen, LOGIT)
    assert truth[0] > 0.5 and truth.argmax() == 0
    assert abs(estimate(PLAIN, seen, LOGIT)[0]) < 1e-6
    monkeypatch.setattr(grad_drop, "changed_backward", Stream.backward)
    found = estimate(GradDrop(), seen, LOGIT)
    assert found.argmax() == 0 and found[0] == pytest.approx(0.5)  # dropped once in two
    assert estimate(PATH, seen, LOGIT)[0] == pytest.approx(truth[0].item(), rel=0.01)


def test_a_norm_hides_the_latent_that_the_stream_points_to_and_a_frozen_or_exact_one_shows_it():
    """Last site of a tiny model: latent 0 is the stream at the last position, and the answer."""
    lm = tiny_lm()
    source, token = Windows(lm, "resid_post.3"), 65
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:6])
    answer = lm.model.lm_head.weight[token] * lm.model.model.norm.weight
    codes = torch.zeros_like(seen.codes)
    codes[-1] = 1.0
    directions = 0.1 * torch.randn(seen.directions.shape, generator=make_generator(0, "test"))
    directions[0] = answer
    rest = 0.01 * torch.randn(6, 32, generator=make_generator(1, "test"))
    clean = rest.clone()
    clean[-1] = answer + 0.01 * torch.randn(32, generator=make_generator(2, "test"))
    rerun = replace(seen.rerun, clean=clean)
    seen = replace(seen, codes=codes, directions=directions, rerun=rerun)
    target = NextToken(token=token, scalar="logit")
    truth = effects(seen, target)
    assert truth.argmax() == 0
    assert estimate(PLAIN, seen, target)[0].abs() < 0.05 * truth[0]
    assert estimate(NormFrozen(), seen, target).argmax() == 0
    torch.testing.assert_close(estimate(NormExact(), seen, target), truth, atol=1e-5, rtol=1e-5)


def test_curvature_over_the_step_is_flagged_and_corrected():
    """f = a0^2 - 1.9 a0 + 0.05 a1: slope 0.1 at a0 = 1, effect -0.9; straight in a1."""
    seen = one_row(lambda a: a[:, 0].square() - 1.9 * a[:, 0] + 0.05 * a[:, 1], 2)
    first = estimate(PLAIN, seen, LOGIT)
    assert first.argmax() == 0
    torch.testing.assert_close(effects(seen, LOGIT), torch.tensor([-0.9, 0.05]))
    ratio = reliability(first, self_curvature(seen, LOGIT, 1, make_generator(0, "test")))
    assert ratio[0] > 5 and ratio[1] < 1e-3
    torch.testing.assert_close(estimate(Curvature(), seen, LOGIT), effects(seen, LOGIT))
    assert estimate(ScreenThenVerify(budget=1), seen, LOGIT)[0] == pytest.approx(-0.9, abs=1e-6)


def test_a_redundant_pair_has_no_single_effect_and_a_joint_one():
    """Either of latents 0 and 1 is enough."""
    seen = one_row(lambda a: a[:, :2].amax(1) + 0.1 * a[:, 2], 3)
    torch.testing.assert_close(effects(seen, LOGIT), torch.tensor([0.0, 0.0, 0.1]))
    pairs = prepare(Joint(size=2, n_sets=12), seen)
    found = pairs.measure([LOGIT], batch_rows=8).effect[0]
    both = pairs.to_units(torch.tensor([1.0, 1.0, 0.0])) == 2
    assert bool(both.any()) and bool((found[both] == 1).all())
    assert bool((pairs.to_units(effects(seen, LOGIT))[both] == 0).all())
    shares = prepare(Shapley(n_pairs=2), seen).measure([LOGIT], batch_rows=8).effect[0]
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.5, 0.1]))


def test_an_inactive_latent_has_no_score_whatever_it_could_do_and_a_dose_asks_it():
    seen = planted(
        torch.tensor([[1.0, 0.0, 1.0]]),
        torch.eye(3),
        lambda x: (x[:, -1] @ torch.tensor([0.1, 9.0, 0.2]))[:, None],
    )
    assert estimate(PLAIN, seen, LOGIT)[1] == 0
    assert gradient(seen, LOGIT, seen.codes[None])[0, 0, 1] == 9
    dose = prepare(Dose(dose=1.0, n_inactive=0), seen)
    found = dose.measure([LOGIT], batch_rows=4).effect[0]
    assert found.argmax() == 1
    torch.testing.assert_close(dose.to_units(estimate(PLAIN, dose.seen, LOGIT)), found)


def test_a_latent_that_is_always_on_rules_zero_ablation_and_not_mean_ablation():
    """Latent 0 is at its mean: it tells nothing context this prompt. Latent 1 is above its own."""
    seen = planted(
        torch.tensor([[10.0, 2.0]]), torch.eye(2), lambda x: x[:, -1].sum(1, keepdim=True)
    )
    assert effects(seen, LOGIT).argmax() == 0
    sae = random_sae(d_in=2, d_sae=2, k=2)
    with torch.no_grad():
        for weight in (sae.W_enc, sae.W_dec):
            assert weight is not None
            weight.copy_(torch.eye(2))
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    usual = torch.tensor([[9.0, 0.0], [11.0, 1.0]])

    @dataclass(frozen=True)
    class Rows(Windows):
        def held_out(self, n: int, seed: int) -> HeldOut:
            return HeldOut(usual)

    context = PromptContext(
        seen=seen,
        is_kept=torch.ones(1, dtype=torch.bool),
        sae=sae,
        source=Rows(tiny_lm()),
        seed=0,
        max_units=None,
    )
    found = Baseline(kind="mean").prepare(context, make_generator(0, "test"))
    assert isinstance(found, PreparedTruth)
    truth = found.measure([LOGIT], batch_rows=4).effect[0]
    torch.testing.assert_close(truth, torch.tensor([0.0, 1.5]))
    torch.testing.assert_close(found.to_units(estimate(PLAIN, found.seen, LOGIT)), truth)


def test_left_ends_lean_to_the_clean_gradient_and_midpoints_do_not():
    seen = one_row(lambda a: a[:, 0] ** 2, 1)
    left = sum(2 * i / 4 for i in range(1, 5)) / 4  # from the clean end: alpha = 1, 3/4, 1/2, 1/4
    assert left == 1.25
    assert estimate(IntegratedGradients(n_points=4), seen, LOGIT).item() == pytest.approx(1)
    assert effects(seen, LOGIT).item() == pytest.approx(1)


def test_an_error_term_that_is_recomputed_would_cancel_every_edit():
    """Held fixed, the edit is seen whole; added anew from the edited codes, nothing is left."""
    seen = planted(
        torch.ones(1, 2), torch.eye(2), lambda x: x[:, -1].sum(1, keepdim=True), error=3.0
    )
    torch.testing.assert_close(effects(seen, LOGIT), torch.ones(2))
    without = seen.codes.clone()
    without[:, 0] = 0
    decoded = without @ seen.directions
    recomputed = decoded + (seen.clean - decoded)
    torch.testing.assert_close(recomputed, seen.clean)


def test_a_gate_that_opens_another_latent_is_in_no_effect_as_the_encoder_is_bypassed():
    """x = (2, 1.9), TopK with k = 1: without latent 0 the encoder would open latent 1."""
    weight, x = torch.tensor([3.0, 5.0]), torch.tensor([[2.0, 1.9]])

    def through_the_gate(entered: Tensor) -> Tensor:
        return (entered * (entered == entered.amax())) @ weight

    (slope,) = torch.autograd.grad(through_the_gate(x.requires_grad_()), x)
    x = x.detach()
    assert (slope * x)[0, 0].item() == pytest.approx(6)  # what it foretells
    lost = through_the_gate(x) - through_the_gate(torch.tensor([[0.0, 1.9]]))
    assert lost.item() == pytest.approx(6 - 9.5)  # what happens: the gate has a kink
    error = x - torch.tensor([[2.0, 0.0]])
    rerun = lambda edited: edited[:, -1] @ weight[:, None]  # noqa: E731
    seen = planted(torch.tensor([[2.0]]), torch.eye(2)[:1], rerun, error=error)
    assert effects(seen, LOGIT).item() == pytest.approx(6)
    assert estimate(PLAIN, seen, LOGIT).item() == pytest.approx(6)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(torch.float32, -1, 1e-4), (torch.bfloat16, 1e-3, 10)]
)
def test_no_op_edits_show_the_rounding_of_the_models_dtype(dtype, low, high):
    lm = tiny_lm()
    lm.model.to(dtype)
    source = Windows(lm)
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])
    noise = no_op_noise(seen, NextToken(token=7), make_generator(0, "test"))
    assert low < noise < high


def test_a_target_read_before_the_end_counts_no_latent_that_opens_after_it():
    """The logits of an earlier position cannot be moved from later ones."""
    lm = tiny_lm()
    source = Windows(lm)
    seen = see_from(source, random_sae(), source.eval_windows(1, 0)[0][:10])
    seen.codes[:9, 0] = 0
    seen.codes[9, 0] = 5
    target = NextToken(token=7, position=-3)
    found = ablate(seen, target, torch.arange(seen.n_active), batch_rows=8).effect
    assert found[0].abs() < 1e-5 and found[1:].abs().min() > 1e-4
    last = ablate(seen, NextToken(token=7), torch.tensor([0]), batch_rows=8).effect
    assert last.abs() > 1e-2
