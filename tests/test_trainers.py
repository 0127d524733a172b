"""What every trainer must satisfy. A new trainer adds one line to TRAINERS."""

import math

import pytest
import torch
from toy import OPTIM, ToyStream, held_out_fvu, no_log, start, train

from gradsae.errors import UserError
from gradsae.interfaces import Progress
from gradsae.optim import Optim
from gradsae.sae import kernels
from gradsae.sae.kernels.gates.threshold import JumpGate
from gradsae.seeds import make_generator
from gradsae.trainers.batchtopk import BatchTopK
from gradsae.trainers.bias_rule import BiasRule
from gradsae.trainers.gated import Gated
from gradsae.trainers.gba import GBA
from gradsae.trainers.ista_matryoshka import IstaMatryoshka
from gradsae.trainers.jumprelu import JumpReLU
from gradsae.trainers.l1 import L1
from gradsae.trainers.matryoshka import Matryoshka
from gradsae.trainers.nested_gba import NestedGBA
from gradsae.trainers.panneal import PAnneal
from gradsae.trainers.peel import Peel
from gradsae.trainers.topk import TopK
from gradsae.training.fit import FitSettings, Training, fit

RULE = BiasRule(groups=4, htf=0.2, ltf=0.02, bias_init="quantile", bias_every=5)
TRAINERS = [
    TopK(d_sae=24, k=2, optim=OPTIM),
    TopK(d_sae=24, k=2, optim=OPTIM, tied=True),
    L1(d_sae=24, l1=0.1, optim=OPTIM),
    L1(d_sae=24, l1=0.1, optim=OPTIM, tied=True),
    JumpReLU(d_sae=24, coefficient=1e-3, optim=OPTIM, threshold=0.1, bandwidth=0.1),
    JumpReLU(d_sae=24, coefficient=1e-3, optim=OPTIM, threshold=0.1, bandwidth=0.1, tied=True),
    JumpReLU(d_sae=24, coefficient=1e-3, optim=OPTIM, penalty="tanh", bandwidth=0.5, to_input=True),
    GBA(d_sae=24, optim=OPTIM, groups=4),
    GBA(d_sae=24, optim=OPTIM, groups=4, tied=False, scale_init=0.05, bias_init="quantile"),
    GBA(d_sae=24, optim=OPTIM, groups=1, activation="relu"),
    BatchTopK(d_sae=24, k=2, optim=OPTIM),
    BatchTopK(d_sae=24, k=1.5, optim=OPTIM, tied=True),
    Matryoshka(d_sae=24, k=2, optim=OPTIM, prefixes=(0.25, 0.5, 1.0)),
    Matryoshka(d_sae=24, k=2, optim=OPTIM, prefixes=(0.25, 1.0), tied=True),
    IstaMatryoshka(
        d_sae=24, k=2, optim=OPTIM, prefixes=(0.25, 0.5, 1.0), sort_every=5, sort_after=10
    ),
    NestedGBA(
        **{"d_sae": 24, "optim": OPTIM, "prefixes": (0.25, 0.5, 1.0), "margin": 0.5},
        **{"start_high": 0.2, "scale_init": 1.0, "memory": 1000},
        **{"revive_every": 5, "dead_below": 0.02},
    ),
    Gated(d_sae=24, l1=0.02, optim=OPTIM),
    Gated(d_sae=24, l1=0.02, optim=OPTIM, tied=True),
    PAnneal(d_sae=24, l1=0.02, optim=OPTIM),
    PAnneal(d_sae=24, l1=0.02, optim=OPTIM, tied=True),
    TopK(d_sae=24, k=2, optim=OPTIM, rule=BiasRule(groups=4, bias_every=5)),
    JumpReLU(d_sae=24, coefficient=0.0, bandwidth=0.0, optim=OPTIM, rule=RULE),
    Peel(d_sae=24, optim=OPTIM, first=4, memory=2000),
]


class NanStream(ToyStream):
    """The toy, with one NaN in one of its batches."""

    def __init__(self, bad_batch: int) -> None:
        super().__init__()
        self.left = bad_batch

    def next(self):
        x = super().next()
        if self.left == 0:
            x[17, 5] = math.nan
        self.left -= 1
        return x


every_trainer = pytest.mark.parametrize(
    "trainer", TRAINERS, ids=lambda t: f"{t.name}-{'tied' if t.tied else 'untied'}"
)


@every_trainer
def test_training_lowers_the_held_out_error(trainer):
    assert held_out_fvu(train(trainer, 300)) < 0.7 * held_out_fvu(start(trainer).sae)


@every_trainer
def test_the_same_seed_gives_the_same_sae_and_another_seed_another(trainer):
    a, b = train(trainer, 20), train(trainer, 20)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(start(trainer, seed=0).sae.W_enc, start(trainer, seed=1).sae.W_enc)


@every_trainer
def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(trainer, tmp_path):
    class KilledError(Exception):
        pass

    def kill(i: int, step: int, parts: dict[str, float]) -> None:
        if step == 27:
            raise KilledError

    whole = train(trainer, 40)
    with pytest.raises(KilledError):
        train(trainer, 40, state_dir=tmp_path / "run", log=kill)
    seen = []
    resumed = train(trainer, 40, state_dir=tmp_path / "run", log=lambda i, s, p: seen.append(s))
    assert seen[0] == 20
    for (name, p), (_, q) in zip(
        whole.state_dict().items(), resumed.state_dict().items(), strict=True
    ):
        assert torch.equal(p, q), name


@every_trainer
def test_nan_weights_end_in_one_message(trainer):
    training = start(trainer)
    with torch.no_grad():
        training.sae.W_enc[3, 2] = math.nan
    with pytest.raises(UserError, match=f"training of {trainer.name} diverged at step 0: .*lr="):
        fit([training], ToyStream(), FitSettings(steps=9, batch_size=256), log=no_log)


@every_trainer
def test_a_nan_activation_ends_in_one_message_and_loses_nothing(trainer, tmp_path):
    """The step that would overwrite the last good state comes before the next logged one."""
    settings = FitSettings(steps=14, batch_size=256, save_every=5, log_every=100)
    whole = start(trainer)
    fit([whole], ToyStream(), settings, log=no_log)
    with pytest.raises(UserError, match=r"diverged at step 9: .* activations .* not all finite"):
        fit([start(trainer, state_dir=tmp_path)], NanStream(7), settings, log=no_log)
    resumed = start(trainer, state_dir=tmp_path)
    fit([resumed], ToyStream(), settings, log=no_log)
    assert resumed.curve == whole.curve
    for p, q in zip(whole.sae.parameters(), resumed.sae.parameters(), strict=True):
        assert torch.equal(p, q)


def test_saes_trained_together_equal_those_trained_alone():
    together = [start(t) for t in TRAINERS]
    fit(together, ToyStream(), FitSettings(steps=15, batch_size=256), log=no_log)
    for trainer, training in zip(TRAINERS, together, strict=True):
        alone = start(trainer)
        fit([alone], ToyStream(), FitSettings(steps=15, batch_size=256), log=no_log)
        for p, q in zip(alone.sae.parameters(), training.sae.parameters(), strict=True):
            assert torch.equal(p, q)


@every_trainer
def test_saved_and_loaded_is_the_same_function(trainer, tmp_path):
    from gradsae.sae.model import load

    sae = train(trainer, 5)
    sae.save(tmp_path, {"note": 1})
    x = ToyStream().next()
    assert torch.equal(load(tmp_path)(x).recon, sae(x).recon)


@every_trainer
def test_an_untrained_sae_has_not_seen_the_features(trainer):
    cosine = start(trainer).sae.decoder() @ ToyStream().V.mT
    norms = start(trainer).sae.decoder().norm(dim=1, keepdim=True)
    assert (cosine / norms).max(0).values.mean() < 0.8  # 24 random directions in 12 dimensions


def test_gba_targets_fall_geometrically_from_htf_to_ltf():
    targets = GBA(d_sae=30, optim=OPTIM, groups=3, htf=0.1, ltf=0.001).targets()
    torch.testing.assert_close(targets[[0, 10, 20]], torch.tensor([0.1, 0.01, 0.001]))
    assert targets.unique().numel() == 3


def bias_step(rates: list[float], peaks: list[float], biases: list[float]) -> list[float]:
    """One bias step of a GBA with targets .5 (latents 0, 1) and .05 (2, 3), gammas .01."""
    trainer = GBA(d_sae=4, optim=OPTIM, groups=2, htf=0.5, ltf=0.05)
    sae = trainer.build(torch.eye(3), make_generator(0, "init"))
    sae.b_enc.data = torch.tensor(biases)
    sae.get_buffer("state_rows").fill_(1000)
    sae.get_buffer("state_fired").copy_(torch.tensor(rates) * 1000)
    sae.get_buffer("state_peak").copy_(torch.tensor(peaks))
    return trainer.rule.moved(sae, sae.b_enc.detach()).tolist()


def test_the_bias_step_is_the_published_rule():
    # over target: b - .01 * peak; dead: b + .01 * mean peak of its group; in band: unchanged
    moved = bias_step([0.6, 0.3, 0.2, 0.0], [2.0, 1.0, 3.0, 0.0], [-0.1, -0.2, -0.3, -0.4])
    assert moved == pytest.approx([-0.1 - 0.02, -0.2, -0.3 - 0.03, -0.4 + 0.03])


def test_biases_stay_between_their_clamps():
    moved = bias_step([1.0, 0.0, 0.2, 0.0], [90.0, 0.0, 90.0, 0.0], [-0.5, -0.1, -0.5, -0.001])
    assert moved == pytest.approx([-1.0, 0.0, -1.0, 0.0])


def test_gba_counts_open_gates_and_their_peaks_with_the_bias():
    trainer = GBA(d_sae=6, optim=OPTIM, groups=2, normalise="none", bias_every=100)
    sae = trainer.build(torch.randn(64, 5), make_generator(0, "init"))
    sae.b_enc.data.fill_(-0.3)
    x = torch.randn(64, 5)
    out = sae(x)
    with torch.no_grad():
        y = (x - sae.b_dec) @ sae.W_enc.mT + sae.b_enc
        trainer.after_step(sae, out, Progress(0, 1000))
    assert torch.equal(sae.get_buffer("state_fired"), (y > 0).sum(0))
    torch.testing.assert_close(sae.get_buffer("state_peak"), y.amax(0).relu())


def test_quantile_biases_make_latents_fire_at_their_targets():
    trainer = GBA(d_sae=20, optim=OPTIM, groups=2, htf=0.2, ltf=0.02, bias_init="quantile")
    x = ToyStream(batch=4000).next()
    sae = trainer.build(x, make_generator(0, "init"))
    rate = sae(x).codes.fired() / 4000
    torch.testing.assert_close(rate, trainer.targets(), atol=1e-3, rtol=0)


def test_jump_puts_out_the_pre_activation_without_its_bias():
    x, bias = torch.tensor([[0.8, 0.2]]), torch.tensor([-0.3, -0.3])
    codes = kernels.encode(x, torch.eye(2), bias, None, JumpGate()).codes
    torch.testing.assert_close(codes.to_dense(), torch.tensor([[0.8, 0.0]]))


def test_aux_k_rebuilds_the_residual_from_the_dead_latents_alone():
    trainer = TopK(d_sae=24, k=2, optim=OPTIM, aux_k=3, aux_coefficient=1.0, dead_after=100)
    x = ToyStream().next()
    sae = trainer.build(x, make_generator(0, "init"))
    sae.get_buffer("state_idle")[:5] = 100
    out = sae(x)
    loss = trainer.loss(sae, out, Progress(0, 10))
    assert sae.W_dec is not None
    pre = (out.x_in - sae.b_dec) @ sae.W_enc[:5].mT + sae.b_enc[:5]
    kept = pre.topk(3).values[:, 2:]
    rebuilt = torch.where(pre >= kept, pre.relu(), 0.0) @ sae.W_dec[:5]
    error = (out.x_in - out.recon_in).detach()
    expected = (error - rebuilt).square().sum() / error.square().sum()
    torch.testing.assert_close(loss.parts["aux"], expected.detach())


def test_a_latent_that_fires_is_no_longer_idle():
    trainer = TopK(d_sae=24, k=2, optim=OPTIM, dead_after=100)
    x = ToyStream().next()
    sae = trainer.build(x, make_generator(0, "init"))
    out = sae(x)
    with torch.no_grad():
        trainer.after_step(sae, out, Progress(0, 10))
    idle = sae.get_buffer("state_idle")
    assert torch.equal(idle == 0, out.codes.fired() > 0)
    assert set(idle.tolist()) <= {0, 256}


def test_l1_loss_is_the_formula():
    trainer = L1(d_sae=8, l1=2.0, optim=OPTIM, l1_warmup=0.5, normalise="none")
    x = torch.randn(16, 4)
    sae = trainer.build(x, make_generator(0, "init"))
    loss = trainer.loss(sae, sae(x), Progress(4, 20)).total  # half warm
    assert sae.W_dec is not None
    f = (x @ sae.W_enc.mT).relu()
    error = (x - f @ sae.W_dec).square().sum(1).mean()
    expected = error + 2.0 * 0.5 * (f * sae.W_dec.norm(dim=1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("penalty", ["step", "tanh"])
def test_jumprelu_loss_is_the_formula(penalty):
    trainer = JumpReLU(
        d_sae=8, coefficient=2.0, optim=OPTIM, penalty=penalty, threshold=0.2, normalise="none"
    )
    x = torch.randn(16, 4)
    sae = trainer.build(x, make_generator(0, "init"))
    assert sae.W_dec is not None
    sae.W_dec.data.mul_(torch.linspace(0.5, 2, 8)[:, None])
    loss = trainer.loss(sae, sae(x), Progress(0, 20)).total  # half warm
    f = x @ sae.W_enc.mT
    f = torch.where(f > 0.2, f, 0.0)
    error = (x - f @ sae.W_dec - sae.b_dec).square().sum(1).mean()
    each = (f > 0) if penalty == "step" else (4.0 * f * sae.W_dec.norm(dim=1)).tanh()
    torch.testing.assert_close(loss, error + 2.0 * 0.5 * each.float().sum(1).mean())


class MovedStream(ToyStream):
    """The toy, far from the origin."""

    def next(self):
        return super().next() + FAR


FAR = 64.0
CENTRED = [
    L1(d_sae=24, l1=0.1, optim=OPTIM, centre=True),
    JumpReLU(d_sae=24, coefficient=1e-3, optim=OPTIM, threshold=0.1, bandwidth=0.1, centre=True),
    GBA(d_sae=24, optim=OPTIM, groups=4, centre=True),
]


@pytest.mark.parametrize("trainer", CENTRED, ids=lambda t: t.name)
def test_a_centred_method_does_not_see_a_constant(trainer):
    sample, x = ToyStream(seed=1000).next(), ToyStream(seed=2000).next()
    recons = []
    for stream, away in ((ToyStream(), 0.0), (MovedStream(), FAR)):
        training = Training(trainer, trainer.build(sample + away, make_generator(0, "init")), None)
        fit([training], stream, FitSettings(steps=50, batch_size=256), log=no_log)
        recons.append(training.sae(x + away).recon - away)
    torch.testing.assert_close(recons[0], recons[1], atol=2e-3, rtol=0.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TopK(d_sae=4, k=5, optim=OPTIM), "k .*from 1 to 4, got 5"),
        (lambda: L1(d_sae=4, l1=-1.0, optim=OPTIM), "l1 must be .*got -1"),
        (lambda: GBA(d_sae=4, optim=OPTIM, groups=5), "groups .*got 5"),
        (lambda: GBA(d_sae=40, optim=OPTIM, htf=0.1, ltf=0.2), "ltf <= htf"),
        (lambda: Optim(lr=-1.0), "lr must be a number above 0, got -1.0"),
    ],
)
def test_bad_values_are_named(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


def test_the_schedule_rises_stays_and_decays():
    optim = Optim(lr=1.0, warmup=0.1, decay="linear", decay_share=0.2)
    rates = [optim.lr_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10:80] == [1.0] * 70
    assert rates[90] == pytest.approx(0.5)
    assert all(math.isfinite(r) and r > 0 for r in rates)
