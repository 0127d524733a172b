"""Nested GBA: thresholds by odds against scipy, its loss against dense torch, dead latents."""

import pytest
import torch
from scipy.stats import norm
from toy import OPTIM, ToyStream, start, train

from gradsae.interfaces import Progress
from gradsae.sae.formats.saelens import from_saelens, to_saelens
from gradsae.sae.model import SAE
from gradsae.trainers.nested_gba import NestedGBA
from gradsae.trainers.odds import Closed, closed_moments, odds_threshold


def trainer(**fields) -> NestedGBA:
    return NestedGBA(**{"d_sae": 24, "optim": OPTIM, "prefixes": (0.25, 0.5, 1.0), **fields})


@pytest.mark.parametrize("rate", [0.003, 0.1, 0.4])
def test_at_the_threshold_active_and_closed_are_as_likely(rate):
    """The posterior of two normal distributions with one variance, by scipy's densities."""
    size, mean, spread = 2.0, -0.3, 0.4
    closed = Closed(torch.tensor([mean]), torch.tensor([mean**2 + spread**2]))
    found = odds_threshold(torch.tensor([rate]), torch.tensor([size]), closed).item()
    active = rate * norm.pdf(found, size, spread)
    assert active == pytest.approx((1 - rate) * norm.pdf(found, mean, spread), rel=1e-3)


def test_without_a_margin_the_threshold_is_halfway():
    closed = Closed(torch.tensor([0.5]), torch.tensor([1.0]))
    found = odds_threshold(torch.tensor([0.01]), torch.tensor([2.5]), closed, margin=0.0)
    assert found.item() == pytest.approx(1.5)


def test_moments_of_closed_rows_leave_out_the_open_ones():
    y = torch.tensor([[1.0, 5.0], [3.0, 7.0], [100.0, 8.0]])
    closed = closed_moments(y, torch.tensor([[False, True], [False, True], [True, True]]))
    assert closed.mean.tolist() == [2.0, 0.0]
    assert closed.mean_square.tolist() == [5.0, 0.0]


def test_a_latent_on_two_clusters_comes_to_open_on_the_upper_one():
    """One latent reads N(0, .1) on 95 % of the rows and N(1, .1) on 5 %, and starts far too low:
    it is counted, its threshold moves, and ends where 5 % of the rows open."""
    method = trainer(d_sae=2, prefixes=(1.0,), margin=1.0, memory=4000, normalise="none")
    generator = torch.Generator().manual_seed(0)

    def rows(n: int) -> torch.Tensor:
        active = (torch.rand(n, generator=generator) < 0.05).float()
        return torch.randn(n, 2, generator=generator) * 0.1 + active[:, None] * torch.eye(2)[0]

    sae = method.build(rows(2000), generator)
    with torch.no_grad():
        for weight in (sae.W_enc, sae.decoder_weights()):
            weight.copy_(torch.eye(2))
        sae.b_dec.zero_()
        sae.b_enc.fill_(-0.2)
        for step in range(150):
            method.after_step(sae, sae(rows(500)), Progress(step, 10_000))
        rate = sae(rows(20_000)).codes.fired()[0].item() / 20_000
    assert rate == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize("detach", [True, False])
def test_the_loss_is_half_the_squared_errors_of_prefixes_sorted_by_rate(detach):
    method, weight = trainer(detach=detach, inner_weight=0.3), 0.3
    sae = start(method).sae
    sae.get_buffer("state_rank").copy_(torch.randperm(24))
    order = sae.get_buffer("state_rank").argsort()
    out = sae(ToyStream(seed=3).next())
    ours = method.loss(sae, out, Progress(0, 9)).total
    assert sae.output_scale is not None
    codes, W = out.codes.to_dense() * sae.output_scale, sae.decoder_weights()
    before, total = sae.b_dec, torch.zeros(())
    for first, last in ((0, 6), (6, 12)):
        members = order[first:last]
        before = (before.detach() if detach and first else before) + codes[:, members] @ W[members]
        total = total + weight * (out.x_in - before).square().sum()
    theirs = 0.5 * (total + (out.x_in - codes @ W - sae.b_dec).square().sum()) / 256
    torch.testing.assert_close(ours, theirs)
    weights = [sae.W_enc, W, sae.b_dec, sae.output_scale]
    for one, other in zip(
        torch.autograd.grad(ours, weights, retain_graph=True),
        torch.autograd.grad(theirs, weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_latents_start_at_their_rates_on_the_sample():
    method = trainer(d_sae=5, start_high=0.4, start_low=0.004, prefixes=(1.0,))
    torch.testing.assert_close(method.start_rates(), 0.4 * 10 ** (-torch.arange(5.0) / 2))
    sample = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))
    sae = method.build(sample, torch.Generator().manual_seed(0))
    with torch.no_grad():
        rate = sae(sample).codes.fired() / 4000
    torch.testing.assert_close(rate, method.start_rates(), atol=6e-4, rtol=0)


def test_a_dead_latent_starts_again_on_a_row_that_is_badly_explained():
    """One row holds nearly all energy of the batch, so the latent must point there."""
    method = trainer(revive_every=1, dead_below=0.01)
    sae = start(method).sae
    x = ToyStream(seed=4).next()
    x[17] = 1000 * torch.nn.functional.normalize(torch.ones(12), dim=0)
    with torch.no_grad():
        sae.get_buffer("state_rate")[3] = 0.0
        sae.b_enc.fill_(-1e6)  # nothing is open, so the residual is the row
        out = sae(x)
        sae.get_buffer("state_rate")[:3].fill_(0.1)
        method.after_step(sae, out, Progress(0, 100))
        expected = out.x_in[17] - sae.b_dec
        for W in (sae.W_enc, sae.decoder_weights()):
            cosine = torch.cosine_similarity(W[3], expected, dim=0)
            assert cosine.item() > 0.99
    assert sae.get_buffer("state_rate")[3] > 0.01
    assert -1e3 < sae.b_enc[3] < 0


def test_it_is_exported_as_a_jumprelu_of_sae_lens(tmp_path):
    sae = train(trainer(), 30)
    to_saelens(sae, tmp_path)
    x = ToyStream(seed=6).next()
    with torch.no_grad():
        torch.testing.assert_close(from_saelens(tmp_path)(x).recon, sae(x).recon)


def test_no_gradient_reaches_the_biases():
    sae = start(trainer()).sae
    assert isinstance(sae, SAE) and not sae.b_enc.requires_grad


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start_low": 0.3}, "start_low <= start_high"),
        ({"margin": -1.0}, "margin"),
        ({"scale_init": 0.0}, "scale_init"),
        ({"prefixes": (0.5,)}, "end with 1"),
        ({"least_rate": 0.0}, "least_rate"),
        ({"memory": 0}, "memory"),
    ],
)
def test_what_cannot_be_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        trainer(**fields)
