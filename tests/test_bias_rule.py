"""GBA's rule as a part: on TopK, on JumpReLU, and with the true rates as targets."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from toy import OPTIM, ToyStream, start, train

from gradsae.bench.cell import build
from gradsae.bench.experiment import run
from gradsae.errors import UserError
from gradsae.interfaces import Progress
from gradsae.sae.kernels.gates.jumprelu import JumpReLUGate
from gradsae.sources.superposition import Superposition
from gradsae.trainers.bias_rule import BiasRule
from gradsae.trainers.gba import GBA
from gradsae.trainers.jumprelu import JumpReLU
from gradsae.trainers.topk import TopK
from gradsae.training.checkpoints import trainer_config

CONF = Path(__file__).parent.parent / "conf"
SOURCE = Superposition(n_features=6, width=4, l0=1, support="bernoulli", exponent=1.0)


def test_given_rates_fall_and_are_spread_over_the_latents():
    rule = BiasRule(groups=2, rates=[0.1, 0.4, 0.2])
    expected = torch.tensor([0.4, 0.4, 0.2, 0.2, 0.1, 0.1])
    torch.testing.assert_close(rule.targets(6), expected)
    torch.testing.assert_close(rule.targets(3), expected[::2])
    torch.testing.assert_close(rule.targets(1), torch.tensor([0.2]))  # the middle one
    torch.testing.assert_close(
        replace(rule, rates_factor=3.0).targets(3), torch.tensor([1.0, 0.6, 0.3])
    )


def test_an_oracle_aims_at_the_true_rates_of_its_source():
    gba = GBA(d_sae=6, optim=OPTIM, groups=2, rates="from_source", truth=SOURCE)
    expected = torch.tensor([1 / i for i in range(1, 7)])
    expected /= expected.sum()  # l0 = 1
    torch.testing.assert_close(gba.targets(), expected)
    sae = gba.build(torch.randn(50, 4), torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae.get_buffer("state_targets"), expected)


def test_an_oracle_without_a_source_says_what_it_needs():
    with pytest.raises(ValueError, match="from_source needs a source whose features are known"):
        GBA(d_sae=6, optim=OPTIM, groups=2, rates="from_source").targets()


def composed(tmp_path, *words: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = ("tracking=none", "device=cpu", f"results={tmp_path}", *words)
        return compose("config", overrides=list(words), return_hydra_config=True)


def test_only_an_oracle_is_handed_its_source(tmp_path):
    told = build(composed(tmp_path, "trainer=gba_oracle"))
    assert isinstance(told.method, GBA) and told.method.truth is told.source
    assert trainer_config(told.method)["rates"] == "from_source"
    assert "truth" not in trainer_config(told.method)
    other = build(composed(tmp_path, "trainer=gba")).method
    assert isinstance(other, GBA) and other.truth is None


def test_an_oracle_does_not_apply_to_a_source_without_known_features(tmp_path):
    cell = build(composed(tmp_path, "trainer=gba_oracle", "source=lm_tiny"))
    outcome = run(cell)
    assert outcome.status == "does not apply"
    assert "no known features" in outcome.text


def test_fields_that_came_later_leave_older_ids_alone():
    """Names of the fields that gba had in the published records."""
    shown = trainer_config(GBA(d_sae=6, optim=OPTIM, groups=2))
    assert "rates" not in shown and "rates_factor" not in shown and "htf" in shown
    assert trainer_config(GBA(d_sae=6, optim=OPTIM, groups=2, rates=[0.1]))["rates"] == [0.1]
    assert "rule" not in trainer_config(TopK(d_sae=6, k=1, optim=OPTIM))
    ruled = trainer_config(TopK(d_sae=6, k=1, optim=OPTIM, rule=BiasRule(groups=2)))
    assert ruled["rule"]["class"] == "BiasRule" and ruled["rule"]["groups"] == 2


def one_bias_step(trainer, sae):
    """Run one training batch and its bias step; return pre-activations and rates of that batch."""
    x = ToyStream().next()
    out = sae(x)
    x_in = sae.normaliser.apply(x).x
    y = (x_in - sae.b_dec * sae.arch.pre_bias) @ sae.W_enc.mT + sae.b_enc
    with torch.no_grad():
        trainer.after_step(sae, out, Progress(0, 10))
    return y.detach(), out.codes.fired() / len(x), out.codes.to_dense().detach()


def test_on_topk_the_rule_lowers_the_biases_of_latents_that_fire_too_often():
    rule = BiasRule(groups=2, htf=0.1, ltf=0.05, bias_every=1)
    trainer = TopK(d_sae=24, k=2, optim=OPTIM, rule=rule)
    sae = start(trainer).sae
    assert not sae.b_enc.requires_grad
    _, rate, codes = one_bias_step(trainer, sae)
    targets = torch.tensor([0.1] * 12 + [0.05] * 12)
    expected = torch.where(rate > targets, -0.01 * codes.amax(0), 0.0)
    assert 0 < int((expected < 0).sum()) < 24
    torch.testing.assert_close(sae.b_enc.detach(), expected)


def test_on_jumprelu_the_rule_raises_the_thresholds_of_latents_that_fire_too_often():
    rule = BiasRule(groups=1, htf=0.2, bias_every=1, bias_high=0.0)
    trainer = JumpReLU(d_sae=24, coefficient=0.0, bandwidth=0.0, optim=OPTIM, rule=rule)
    sae = start(trainer).sae
    threshold = sae.gate_as(JumpReLUGate).threshold
    assert not threshold.requires_grad
    with torch.no_grad():
        threshold.fill_(0.3)
    y, rate, _ = one_bias_step(trainer, sae)
    torch.testing.assert_close(rate, (y > 0.3).double().mean(0).to(rate))
    above = (y.amax(0) - 0.3).relu()  # peak of y - threshold, and its mean over those that fired
    raised = 0.3 - 0.01 * above[above > 0].mean()
    expected = torch.where(rate > 0.2, 0.3 + 0.01 * above, 0.3)
    expected = torch.where(rate == 0, raised, expected)
    torch.testing.assert_close(threshold.detach(), expected)
    assert expected.unique().numel() > 3


def test_jumprelu_under_the_rule_starts_at_its_targets_and_stays_at_or_below_them():
    rule = BiasRule(groups=2, htf=0.2, ltf=0.05, bias_init="quantile", bias_every=5)
    trainer = JumpReLU(d_sae=24, coefficient=0.0, bandwidth=0.0, optim=OPTIM, rule=rule)
    x = ToyStream(seed=1000).next()  # what `start` builds from
    rate = start(trainer).sae(x).codes.fired() / len(x)
    torch.testing.assert_close(rate, rule.targets(24), atol=1.5 / 256, rtol=0)
    x = ToyStream(seed=3, batch=4096).next()
    rate = train(trainer, 200)(x).codes.fired() / len(x)
    assert rate.mean() < 1.3 * rule.targets(24).mean()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BiasRule(rates=[0.1, 1.5]), "of rates must be above 0 and at most 1, got 1.5$"),
        (lambda: BiasRule(rates=[]), "rates must be above 0 .*, got none$"),
        (lambda: BiasRule(rates=[0.1], htf=0.5), "exclude each other"),
        (lambda: BiasRule(htf=0.1, ltf=0.2), "ltf <= htf"),
        (lambda: BiasRule(bias_low=0.1), "bias_low < bias_high <= 0"),
        (
            lambda: JumpReLU(d_sae=4, coefficient=0.1, optim=OPTIM, rule=BiasRule()),
            "coefficient and bandwidth must be 0, got 0.1 and 0.001",
        ),
    ],
)
def test_bad_values_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_rates_that_are_another_word_are_refused(tmp_path):
    with pytest.raises(UserError, match="rates must be numbers or from_source, got 'true_ones'"):
        build(composed(tmp_path, "trainer=gba_oracle", "trainer.rates=true_ones"))
