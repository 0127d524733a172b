"""Peel: the sparse coder against a plain loop, thresholds against Bayes, the growing dictionary."""

import math

import pytest
import torch
from toy import OPTIM, ToyStream, start, train

from gradsae.interfaces import Progress
from gradsae.sae.kernels.peel import peel
from gradsae.sae.pursuit import PeelCoder
from gradsae.trainers.peel import NEVER, Peel, set_thresholds

ONE = torch.ones(())
TRAINER = Peel(d_sae=24, optim=OPTIM, first=4, memory=2000)


def plain_peel(x, atoms, threshold, size, k):
    """One row at a time, by the definition."""
    left, chosen = x.clone(), []
    while len(chosen) < k:
        margin = atoms @ left - threshold
        margin[chosen] = -torch.inf
        best = int(margin.argmax())
        if margin[best] <= 0:
            break
        left -= min(atoms[best] @ left, 1.3 * size) * atoms[best]
        chosen.append(best)
    code = torch.zeros(len(atoms), dtype=x.dtype)
    if chosen:
        P = atoms[chosen]
        ridge = 0.01 * torch.eye(len(chosen), dtype=x.dtype)
        fit = torch.linalg.solve(P @ P.mT + ridge, P @ x)
        code[chosen] = torch.where(fit > 0.5 * size, fit.clamp_max(1.3 * size), 0.0)
    return code


@pytest.mark.parametrize("gram_atoms", [0, 1000])
def test_peeling_is_the_plain_loop(gram_atoms, generator, monkeypatch):
    monkeypatch.setattr("gradsae.sae.kernels.peel.GRAM_ATOMS", gram_atoms)
    monkeypatch.setattr("gradsae.sae.kernels.peel.ELEMENTS", 500)  # several chunks of rows
    atoms = torch.randn(30, 8, generator=generator, dtype=torch.float64)
    atoms /= atoms.norm(dim=1, keepdim=True)
    x = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    threshold = 0.4 + torch.rand(30, generator=generator, dtype=torch.float64)
    size = torch.tensor(1.1, dtype=torch.float64)
    found = peel(x, atoms, threshold, size, k=4)
    expected = torch.stack([plain_peel(row, atoms, threshold, size, 4) for row in x])
    torch.testing.assert_close(found.to_dense(), expected)
    assert set(found.offsets.diff().tolist()) == {0, 1, 2, 3, 4}


def test_an_atom_with_an_infinite_threshold_is_never_taken():
    codes = peel(torch.eye(3), torch.eye(3), torch.tensor([0.5, math.inf, 2.0]), ONE, k=3)
    assert codes.latents.tolist() == [0]


def test_a_row_that_nothing_explains_is_closed():
    assert peel(torch.zeros(5, 3), torch.eye(3), torch.ones(3), ONE, k=2).n_open().sum() == 0


def test_the_threshold_is_where_being_there_is_as_likely_as_not():
    """Bayes by hand: p N(c; m, s^2) = (1 - p) N(c; 0, s^2) at the threshold c."""
    sae = start(TRAINER).sae
    sae.get_buffer("state_rate").fill_(0.02)
    sae.get_buffer("state_sum").fill_(0.02 * 0.7)
    sae.get_buffer("state_noise").fill_(0.09)
    set_thresholds(sae)
    c, s = sae.threshold[0].item(), math.sqrt(0.09)
    there = 0.02 * math.exp(-((c - 0.7) ** 2) / (2 * s * s))
    absent = 0.98 * math.exp(-(c**2) / (2 * s * s))
    assert there == pytest.approx(absent, rel=1e-4)


def test_latents_double_until_all_are_there():
    trainer = Peel(d_sae=100, optim=OPTIM, first=16, grow_share=0.6)
    counts = [trainer.size(Progress(step, 100)) for step in range(100)]
    assert [counts[0], counts[19], counts[20], counts[40], counts[60], counts[99]] == [
        *(16, 16, 32, 64, 100, 100)
    ]
    assert Peel(d_sae=8, optim=OPTIM).size(Progress(0, 10)) == 8


def test_latents_that_are_not_there_yet_stay_closed():
    sae = start(TRAINER).sae
    assert (sae.threshold == NEVER).tolist() == [False] * 4 + [True] * 20
    assert int(sae(ToyStream().next()).codes.fired()[4:].sum()) == 0


def test_a_direction_moves_by_the_mean_of_what_is_left_where_it_is_open():
    sae, x = start(TRAINER).sae, ToyStream().next()
    before = sae.W_enc.clone()
    out = sae(x)
    with torch.no_grad():
        TRAINER.after_step(sae, out, Progress(1, 1000))
        z, left = out.codes.to_dense(), out.x_in - out.recon_in
        square = sae.get_buffer("state_square")[:4, None]
        step = 256 / 2000 * 15 ** (1 - 1 / 999)
        moved = before[:4] + step * (z.mT @ left)[:4] / 256 / square
    moved = moved / moved.norm(dim=1, keepdim=True)
    torch.testing.assert_close(sae.W_enc[:4], moved, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sae.W_enc[4:], before[4:])


def test_a_dead_latent_starts_again_as_what_a_row_had_left():
    trainer = Peel(d_sae=8, optim=OPTIM, first=8, revive_every=1)
    sae, x = start(trainer).sae, ToyStream().next()
    for name in ("state_rate", "state_sum", "state_square"):
        sae.get_buffer(name)[3] = 0
    set_thresholds(sae)
    with torch.no_grad():
        out = sae(x)
        trainer.after_step(sae, out, Progress(0, 1000))
        left = out.x_in - out.recon_in
    cosine = torch.nn.functional.cosine_similarity(left, sae.W_enc[3][None])
    assert cosine.max().item() == pytest.approx(1.0, abs=1e-5)
    rate, total = sae.get_buffer("state_rate"), sae.get_buffer("state_sum")
    assert total[3] / rate[3] == pytest.approx((total.sum() / rate.sum()).item(), rel=1e-4)


def test_the_directions_of_separate_features_are_found_with_nothing_set():
    """Ten features at right angles, each there with probability .2 and size 1: nothing is set."""

    class Apart(ToyStream):
        def next(self):
            on = torch.rand(256, 10, generator=self.generator) < 0.2
            return on.float() @ torch.eye(12)[:10]

    from gradsae.seeds import make_generator
    from gradsae.training.fit import FitSettings, Training, fit

    trainer = Peel(d_sae=40, optim=OPTIM, first=5, memory=4000)
    sae = trainer.build(Apart(seed=1).next(), make_generator(0, "init"))
    settings = FitSettings(steps=300, batch_size=256)
    fit([Training(trainer, sae)], Apart(), settings, log=lambda *_: None)
    assert (sae.W_enc[:, :10].amax(0) > 0.98).all()


def test_coefficients_get_no_gradient_and_the_centre_does():
    sae = train(TRAINER, 10)
    sae(ToyStream().next()).recon.square().sum().backward()
    assert sae.W_enc.grad is None and sae.b_dec.grad is not None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Peel(d_sae=8, optim=OPTIM, most=9), r"most \(with d_sae=8\) .*got 9"),
        (lambda: Peel(d_sae=8, optim=OPTIM, first=0), "first .*got 0"),
        (lambda: Peel(d_sae=8, optim=OPTIM, grow_share=1.5), "grow_share .*got 1.5"),
        (lambda: PeelCoder(2, 4, 5), r"k \(with gate=peel\) .*from 1 to 4, got 5"),
    ],
)
def test_bad_values_are_named(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()
