"""Gated and p-anneal: losses and gradients against dense torch; the schedule of p."""

from dataclasses import replace

import pytest
import torch
from toy import OPTIM, ToyStream, start

from gradsae.interfaces import Progress
from gradsae.sae.model import SAE
from gradsae.trainers.gated import Gated
from gradsae.trainers.panneal import PAnneal

GATED = Gated(d_sae=24, l1=0.1, optim=OPTIM, l1_warmup=0.5)
PANNEAL = PAnneal(d_sae=24, l1=0.1, optim=OPTIM, l1_warmup=0.5, n_falls=4, anneal_start=0.2)


def named(sae: SAE) -> dict[str, torch.nn.Parameter]:
    """Return all parameters under the names that they have in the paper and in files."""
    return {name.removeprefix("gate."): p for name, p in sae.named_parameters()}


def perturbed(trainer, generator, shift: float):
    """An SAE away from its start (where much is zero), and its parameters for a plain version."""
    sae = start(trainer).sae.double()
    with torch.no_grad():
        for p in sae.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
        sae.b_enc.add_(shift)
    return sae, {n: p.detach().clone().requires_grad_() for n, p in named(sae).items()}


def gated_loss(x, p, l1):
    """Equations 6 to 8 of the paper over full matrices."""
    W_dec = p.get("W_dec", p["W_enc"])
    u = (x - p["b_dec"]) @ p["W_enc"].mT
    pi = u + p["b_enc"]
    f = (pi > 0) * (p["r_mag"].exp() * u + p["b_mag"]).relu()
    error = (x - f @ W_dec - p["b_dec"]).square().sum(1).mean()
    frozen = pi.relu() @ W_dec.detach() + p["b_dec"].detach()
    return error + l1 * pi.relu().sum(1).mean() + (x - frozen).square().sum(1).mean()


def panneal_loss(x, p, l1, power, weight):
    W_dec = p.get("W_dec", p["W_enc"])
    f = ((x - p["b_dec"]) @ p["W_enc"].mT + p["b_enc"]).relu()
    penalty = f[f > 0].pow(power).sum() / len(x)
    return (x - f @ W_dec - p["b_dec"]).square().sum(1).mean() + l1 * weight * penalty


@pytest.mark.parametrize("shift", [0.0, -1.1], ids=["dense", "sparse"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("method", ["gated", "panneal"])
def test_loss_and_gradients_equal_the_dense_formula(method, tied, shift, generator):
    trainer = replace(GATED if method == "gated" else PANNEAL, tied=tied)
    sae, plain = perturbed(trainer, generator, shift)
    x = ToyStream().next().double()
    if method == "panneal":
        sae.get_buffer("state_weight").fill_(2.5)
    progress = Progress(5, 20)  # three fifths warm; p has fallen once
    out = sae(x)
    assert (type(out.codes).__name__ == "DenseCodes") == (shift == 0.0)
    assert out.codes.n_open().sum() > 0
    loss = trainer.loss(sae, out, progress).total
    loss.backward()
    if method == "gated":
        expected = gated_loss(out.x_in, plain, 0.1 * 0.6)
    else:
        expected = panneal_loss(out.x_in, plain, 0.1 * 0.6, 0.8, 2.5)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, p in named(sae).items():
        torch.testing.assert_close(p.grad, plain[name].grad, msg=name)


def test_p_falls_in_equal_steps_and_ends_at_its_end():
    falls = [PANNEAL.falls(Progress(step, 50)) for step in range(50)]
    assert falls == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10 + [4] * 10
    assert [PANNEAL.p(i) for i in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_the_penalty_of_the_last_batches_is_kept_when_p_falls():
    trainer, sae = PANNEAL, start(PANNEAL).sae
    stream, penalties = ToyStream(), []
    with torch.no_grad():
        for step in range(10):
            out = sae(stream.next())
            f = out.codes.to_dense()
            penalties.append([f[f > 0].pow(p).sum() / len(f) for p in (1.0, 0.8)])
            trainer.after_step(sae, out, Progress(step, 50))
    before, after = torch.tensor(penalties).mean(0)
    torch.testing.assert_close(sae.get_buffer("state_weight"), before / after)
    assert not sae.get_buffer("state_recent").any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gated(d_sae=4, l1=-1.0, optim=OPTIM), "l1 must be .*got -1"),
        (lambda: PAnneal(d_sae=4, l1=0.1, optim=OPTIM, p_end=0.0), "p_end must be .*got 0"),
        (lambda: PAnneal(d_sae=4, l1=0.1, optim=OPTIM, p_end=1.5), "p_end is a share.*got 1.5"),
        (lambda: PAnneal(d_sae=4, l1=0.1, optim=OPTIM, n_falls=0), "n_falls .*got 0"),
    ],
)
def test_bad_values_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
