"""BatchTopK and Matryoshka: selection, losses and gradients against dense torch, inference."""

import pytest
import torch
from toy import OPTIM, ToyStream, start, train

from gradsae.interfaces import Progress
from gradsae.metrics.common import forward
from gradsae.sae.codes import DenseCodes, SparseCodes, from_dense
from gradsae.sae.kernels import select
from gradsae.sae.kernels.gates.jumprelu import JumpReLUGate
from gradsae.sae.model import load
from gradsae.trainers.batchtopk import BatchTopK
from gradsae.trainers.matryoshka import Matryoshka, decode_groups

FAMILY = [
    BatchTopK(d_sae=24, k=2, optim=OPTIM),
    BatchTopK(d_sae=24, k=2, optim=OPTIM, tied=True),
    Matryoshka(d_sae=24, k=2, optim=OPTIM, prefixes=(0.25, 0.5, 1.0)),
    Matryoshka(d_sae=24, k=2, optim=OPTIM, prefixes=(0.25, 0.5, 1.0), tied=True),
]
each = pytest.mark.parametrize("trainer", FAMILY, ids=lambda t: f"{t.name}-{t.tied}")


def dense_batch_top_k(pre, n):
    """The n largest of a whole matrix by a full sort, clipped at zero."""
    least = pre.flatten().sort(descending=True).values[n - 1]
    return torch.where(pre >= least, pre.relu(), 0.0)


@pytest.mark.parametrize("n", [1, 300, 4000, 60_000])
@pytest.mark.parametrize("scale", ["even", "one_row_holds_all"])
def test_the_batch_keeps_exactly_its_largest(n, scale, generator):
    """One row with all the large entries misleads the guessed level both ways."""
    x = torch.randn(200, 6, generator=generator)
    if scale == "one_row_holds_all":
        x[1] *= 1e3
    W, b = torch.randn(400, 6, generator=generator), torch.randn(400, generator=generator)
    found = select.top_of_batch(x, W, b, n)
    pre = torch.addmm(b, x, W.mT)
    expected = dense_batch_top_k(pre, min(n, int((pre > 0).sum())))
    torch.testing.assert_close(found.to_dense(), expected, atol=1e-3, rtol=1e-5)
    assert int(found.n_open().sum()) == min(n, int((pre > 0).sum()))
    assert isinstance(found, SparseCodes) == (n <= 4000)


def test_a_batch_without_positive_entries_is_closed():
    found = select.top_of_batch(torch.ones(70, 3), -torch.ones(50, 3), torch.zeros(50), 10)
    assert found.n_open().sum() == 0


def test_of_equal_entries_exactly_as_many_as_wanted_are_kept():
    found = select.top_of_batch(torch.ones(70, 3), torch.ones(50, 3), torch.zeros(50), 11)
    assert int(found.n_open().sum()) == 11


def test_only_keeps_the_marked_entries(generator):
    dense = torch.rand(5, 7, generator=generator) * (torch.rand(5, 7, generator=generator) < 0.4)
    codes = from_dense(dense)
    expected = torch.where(dense > 0.5, dense, 0.0)
    assert torch.equal(codes.only(codes.values > 0.5).to_dense(), expected)


@each
def test_training_keeps_k_open_latents_a_row_on_average(trainer):
    sae, x = start(trainer).sae, ToyStream().next()
    assert int(sae(x, gate=trainer.gate).codes.n_open().sum()) == trainer.k * len(x)


def dense_loss(trainer, W_enc, W_dec, b_enc, b_dec, x):
    """Loss of one training step, from the papers' formulas over full matrices; none is dead."""
    pre = (x - b_dec) @ W_enc.mT + b_enc
    f = dense_batch_top_k(pre, trainer.k * len(x))
    ends = trainer.ends() if isinstance(trainer, Matryoshka) else [trainer.d_sae]
    left = [(x - f[:, :m] @ W_dec[:m] - b_dec).square().sum() for m in ends]
    return torch.stack(left).mean() / (x - x.mean(0)).square().sum()


@each
def test_loss_and_gradients_equal_the_dense_formula(trainer, generator):
    sae = start(trainer).sae.double()
    with torch.no_grad():
        for p in sae.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    x = ToyStream().next().double()
    out = sae(x, gate=trainer.gate)
    loss = trainer.loss(sae, out, Progress(0, 10)).total
    loss.backward()
    names = ["W_enc", "b_enc", "b_dec"] if trainer.tied else ["W_enc", "b_enc", "b_dec", "W_dec"]
    ours = {name: sae.get_parameter(name) for name in names}
    plain = {name: p.detach().clone().requires_grad_() for name, p in ours.items()}
    expected = dense_loss(trainer, **{"W_dec": plain["W_enc"], **plain}, x=out.x_in)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name in names:
        torch.testing.assert_close(ours[name].grad, plain[name].grad, msg=name)


@pytest.mark.parametrize("dense", [False, True])
def test_groups_sum_up_to_decodes_of_the_first_latents(dense, generator):
    values = torch.rand(9, 10, generator=generator) * (torch.rand(9, 10, generator=generator) < 0.3)
    W, ends = torch.randn(10, 4, generator=generator), [2, 3, 10]
    codes = DenseCodes(values=values) if dense else from_dense(values)
    expected = torch.stack([values[:, :m] @ W[:m] for m in ends], dim=1)
    torch.testing.assert_close(decode_groups(codes, W, ends).cumsum(1), expected)


@pytest.mark.parametrize("d_sae", [400, 40_000], ids=["plain", "screened"])
def test_the_entries_of_a_row_rise_in_their_latents(d_sae, generator):
    """Groups of latents are then groups of neighbours, with no sorting (see `decode_groups`)."""
    x, W = torch.randn(130, 64, generator=generator), torch.randn(d_sae, 64, generator=generator)
    found = select.top_of_batch(x, W, torch.zeros(d_sae), 1000)
    assert isinstance(found, SparseCodes) and len(found.values) == 1000
    same_row = found.rows.diff() == 0
    assert bool((found.latents.diff()[same_row] > 0).all())


@each
def test_a_row_is_encoded_alike_in_any_company(trainer):
    """The SAE itself never looks at the batch, whether in training mode or not."""
    sae, x = train(trainer, 30), ToyStream(seed=5).next()
    whole = sae(x).recon.detach()
    alone = torch.cat([sae(row[None]).recon for row in x[:20]]).detach()
    torch.testing.assert_close(alone, whole[:20])
    torch.testing.assert_close(sae.eval()(x).recon, whole)


@each
def test_metrics_see_one_function_of_fresh_and_loaded(trainer, tmp_path):
    sae, x = train(trainer, 30), ToyStream(seed=5).next()
    sae.save(tmp_path, {})
    (fresh,), (loaded,) = forward(sae, x), forward(load(tmp_path), x)
    assert torch.equal(fresh.recon, loaded.recon)
    assert torch.equal(fresh.codes.to_dense(), loaded.codes.to_dense())


@each
def test_at_inference_about_k_latents_open_on_unseen_rows(trainer):
    x = ToyStream(seed=7, batch=4096).next()
    for steps in (0, 300):  # the threshold starts there, and follows the training
        l0 = train(trainer, steps)(x).codes.n_open().double().mean().item()
        assert l0 == pytest.approx(trainer.k, rel=0.15), steps


def test_inference_opens_exactly_above_the_threshold():
    sae, x = train(FAMILY[0], 30), ToyStream(seed=5).next()
    threshold = sae.gate_as(JumpReLUGate).threshold
    x_in = sae.normaliser.apply(x).x
    pre = (x_in - sae.b_dec) @ sae.W_enc.mT + sae.b_enc
    expected = torch.where(pre > threshold[0], pre, 0.0)
    assert threshold.unique().numel() == 1
    torch.testing.assert_close(sae(x).codes.to_dense(), expected, atol=1e-6, rtol=1e-5)


def test_the_threshold_is_the_running_mean_of_the_least_open_value():
    trainer = BatchTopK(d_sae=24, k=2, optim=OPTIM, threshold_rate=0.25)
    sae, x = start(trainer).sae, ToyStream().next()
    threshold = sae.gate_as(JumpReLUGate).threshold
    before = threshold[0].item()
    out = sae(x, gate=trainer.gate)
    dense = out.codes.to_dense()
    with torch.no_grad():
        trainer.after_step(sae, out, Progress(0, 10))
    expected = 0.75 * before + 0.25 * dense[dense > 0].min().item()
    assert threshold[0].item() == pytest.approx(expected)


def test_no_gradient_reaches_a_fixed_threshold_or_blurs_the_gate(generator):
    sae, x = train(FAMILY[0], 30), ToyStream(seed=5).next()
    sae(x).recon.square().sum().backward()
    assert sae.gate_as(JumpReLUGate).threshold.grad is None
    assert sae.W_enc.grad is not None and bool(sae.W_enc.grad.isfinite().all())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BatchTopK(d_sae=4, k=0, optim=OPTIM), "k must be a number above 0, got 0"),
        (lambda: BatchTopK(d_sae=4, k=4.5, optim=OPTIM), "k must be at most d_sae=4, got 4.5"),
        (lambda: BatchTopK(d_sae=4, k=1, optim=OPTIM, dead_after=0), "dead_after .*got 0"),
        (
            lambda: BatchTopK(d_sae=4, k=1, optim=OPTIM, threshold_rate=2.0),
            "threshold_rate .*got 2",
        ),
        (lambda: Matryoshka(d_sae=8, k=1, optim=OPTIM), r"d_sae=8 latents gives \[0, 1"),
        (lambda: Matryoshka(d_sae=64, k=1, optim=OPTIM, prefixes=(0.5, 0.9)), "end with 1"),
        (lambda: Matryoshka(d_sae=64, k=1, optim=OPTIM, prefixes=(0.5, 0.5, 1.0)), "rising"),
    ],
)
def test_bad_values_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
