"""The recipe of others, piece by piece: each against dense torch written from its definition."""

import math

import pytest
import torch
from tiny_prompts import Windows, tiny_lm
from toy import OPTIM, ToyStream, start

from gradsae.errors import UserError
from gradsae.interfaces import Progress
from gradsae.optim import Optim
from gradsae.prompts.seen import see_from
from gradsae.sae import model as saes
from gradsae.sae.directions import random_directions
from gradsae.sae.formats.saelens import to_saelens
from gradsae.sae.kernels.gates.jumprelu import JumpReLUGate
from gradsae.sae.model import SAE, make_sae
from gradsae.trainers.ista_matryoshka import IstaMatryoshka
from gradsae.trainers.nested import groups_of, rank_by_rate, tilted_mean

D_IN, D_SAE, RATE = 6, 40, 0.3


def random_sae(gate: str, *, tied: bool, ista_steps: int = 2, **settings) -> SAE:
    torch.manual_seed(0)
    scaled = gate == "jump"
    arch = {"d_in": D_IN, "d_sae": D_SAE, "tied": tied, "scaled": scaled}
    sae = make_sae(**arch, gate=gate, ista_steps=ista_steps, ista_rate=RATE, **settings).double()
    for p in sae.parameters():
        p.data.normal_()
        p.data.mul_(0.5)
    for name, p in sae.named_parameters():
        if "threshold" in name:
            p.data.abs_().add_(1.0)
    sae.b_enc.data.sub_(1.5)
    return sae


def dense_gate(sae: SAE, gate, pre: torch.Tensor) -> torch.Tensor:
    """The gates by their definitions, over a whole matrix."""
    if gate.name == "jump":
        return (pre - sae.b_enc.detach()) * (pre > 0)
    if gate.name == "topk":
        least = pre.topk(gate.k, dim=1).values[:, -1:]
        return pre.relu() * (pre >= least)
    assert gate.name == "jumprelu"
    return pre * (pre > gate.threshold)


def dense_codes(sae: SAE, x: torch.Tensor) -> torch.Tensor:
    """pre + rate W_enc (x - recon), step after step."""
    W_dec = sae.decoder()
    pre = (x - sae.b_dec) @ sae.W_enc.mT + sae.b_enc
    for gate in sae.early:
        codes = dense_gate(sae, gate, pre)
        pre = pre + RATE * (x - sae.b_dec - codes @ W_dec) @ sae.W_enc.mT
    return dense_gate(sae, sae.gate, pre)


GATES = [("jump", {}), ("topk", {"k": 2}), ("jumprelu", {"bandwidth": 0.0})]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("gate", "settings"), GATES)
def test_steps_of_ista_and_their_gradients_are_those_of_dense_torch(gate, settings, tied):
    sae = random_sae(gate, tied=tied, **settings)
    x = torch.randn(50, D_IN).double()
    target = torch.randn(50, D_IN).double()
    out = sae(x)
    assert 0 < int(out.codes.n_open().sum()) < 0.5 * 50 * D_SAE
    trained = [p for name, p in sae.named_parameters() if "threshold" not in name]
    ours = torch.autograd.grad((out.recon_in - target).square().sum(), trained)
    codes = dense_codes(sae, x)
    torch.testing.assert_close(out.codes.to_dense(), codes)
    recon = codes @ sae.decoder() + sae.b_dec
    theirs = torch.autograd.grad((recon - target).square().sum(), trained)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_step_of_ista_explains_more_of_the_row_with_the_same_directions():
    """Two directions at 60 degrees, one of them present: one look opens both, a step corrects it.

    By hand: pre = (1, .5), both open; what is left is -.5 times the second direction; so a full
    step gives pre = (1 - .25, .5 - .5), and the second latent closes.
    """
    sae = make_sae(d_in=2, d_sae=2, gate="relu", ista_steps=1, ista_rate=1.0)
    directions = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]])
    sae.W_enc.data.copy_(directions)
    sae.decoder_weights().data.copy_(directions)
    codes = sae(torch.tensor([[1.0, 0.0]])).codes.to_dense()
    torch.testing.assert_close(codes, torch.tensor([[0.75, 0.0]]))


def test_an_sae_with_steps_of_ista_is_saved_whole_and_not_exported(tmp_path):
    sae = random_sae("jumprelu", tied=False, bandwidth=0.0).float()
    sae.save(tmp_path / "one", {})
    again, x = saes.load(tmp_path / "one"), torch.randn(30, D_IN)
    assert torch.equal(again(x).recon, sae(x).recon)
    with pytest.raises(UserError, match="ista_steps=2 cannot be exported"):
        to_saelens(sae, tmp_path / "theirs")


@torch.no_grad()
def test_in_a_language_model_a_latent_is_switched_off_as_its_refined_code_says():
    """The edit by hand: each position loses the latent's code times its direction."""
    source = Windows(tiny_lm())
    sae = make_sae(d_in=source.lm().d_model, d_sae=64, gate="topk", k=8, ista_steps=1)
    directions = random_directions(64, sae.d_in, torch.Generator().manual_seed(0))
    sae.W_enc.copy_(directions)
    sae.decoder_weights().copy_(directions)
    seen = see_from(source, sae, source.eval_windows(1, 0)[0])
    codes = sae(seen.clean).codes.to_dense()
    plain = make_sae(d_in=sae.d_in, d_sae=64, gate="topk", k=8)
    plain.load_state_dict(sae.state_dict())
    assert not torch.equal(codes, plain(seen.clean).codes.to_dense())
    codes[0] = 0.0  # position 0 is dropped
    for column, latent in enumerate(seen.latents.tolist()[:5]):
        expected = seen.clean - codes[:, latent, None] * directions[latent]
        found = seen.without(torch.tensor([column]))[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_sae_without_steps_of_ista_says_nothing_of_them():
    sae = make_sae(d_in=3, d_sae=4, gate="relu")
    assert "ista_steps" not in sae.architecture()


def trainer(**fields) -> IstaMatryoshka:
    given = {"d_sae": 24, "k": 2, "optim": OPTIM, "prefixes": (0.25, 0.5, 1.0), **fields}
    return IstaMatryoshka(**given)


def dense_loss(method: IstaMatryoshka, sae: SAE, x, codes, order) -> torch.Tensor:
    """The loss from its definition: prefixes of the latents in a given order."""
    n, variance = len(x), (x - x.mean(0)).square().sum()

    def fvu(recon):
        errors = (x - recon).square().sum(1)
        weight = (method.tilt * errors.detach() / errors.detach().mean()).exp()
        return n * (weight / weight.sum() * errors).sum() / variance

    total, W_dec, before = torch.zeros(()), sae.decoder_weights(), sae.b_dec
    ends = [6, 12, 24]
    for start_, end in zip([0, *ends], ends[:-1], strict=False):
        members = order[start_:end]
        before = before.detach() if method.detach and start_ else before
        before = before + codes[:, members] @ W_dec[members]
        total = total + method.inner_weight * fvu(before)
    return total + fvu(codes @ W_dec + sae.b_dec)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "sparse"])
@pytest.mark.parametrize("tilt", [0.0, 0.7])
def test_the_loss_and_its_gradients_are_those_of_its_definition(detach, dense, tilt):
    method = trainer(detach=detach, tilt=tilt, aux_coefficient=0.0, k=8 if dense else 1)
    sae = start(method).sae
    sae.get_buffer("state_rank").copy_(torch.randperm(24))
    x = ToyStream(seed=3).next()
    out = sae(x, gate=method.gate_at(Progress(50, 100)))
    ours = method.loss(sae, out, Progress(50, 100)).total
    order = sae.get_buffer("state_rank").argsort()
    theirs = dense_loss(method, sae, out.x_in, out.codes.to_dense(), order)
    torch.testing.assert_close(ours, theirs)
    weights = [sae.W_enc, sae.decoder_weights(), sae.b_dec, sae.b_enc]
    for one, other in zip(
        torch.autograd.grad(ours, weights, retain_graph=True),
        torch.autograd.grad(theirs, weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_sorting_the_latents_is_the_same_training_as_permuting_weights_and_moments():
    """One SAE is sorted by its ranks. In the other, rows of weights, of Adam's moments and of every
    buffer are moved instead. Each next step must be the same step."""
    method = trainer(sort_every=6, sort_after=6, aux_coefficient=0.0)
    sorted_, moved = start(method), start(method)
    stream = ToyStream()
    batches = [stream.next() for _ in range(9)]
    for step, x in enumerate(batches[:6]):
        sorted_.step(x, Progress(step, 10))
        moved.step(x, Progress(step, 10))
    rank = sorted_.sae.get_buffer("state_rank")
    order = rank.argsort()
    assert not torch.equal(rank, torch.arange(24))
    with torch.no_grad():
        for tensor in (*moved.sae.parameters(), *moved.sae.buffers()):
            if tensor.dim() and len(tensor) == 24:
                tensor.copy_(tensor[order])
        for moments in moved.optimizer.state.values():
            for tensor in moments.values():
                if tensor.dim() and len(tensor) == 24:
                    tensor.copy_(tensor[order])
    assert torch.equal(moved.sae.get_buffer("state_rank"), torch.arange(24))
    x = ToyStream(seed=9).next()
    torch.testing.assert_close(sorted_.sae(x).recon, moved.sae(x).recon)
    for step, x in enumerate(batches[6:], 6):
        one = sorted_.step(x, Progress(step, 100))
        other = moved.step(x, Progress(step, 100))
        torch.testing.assert_close(one["fvu_first"], other["fvu_first"])
    torch.testing.assert_close(sorted_.sae.W_enc[order], moved.sae.W_enc, atol=1e-5, rtol=1e-4)


def test_the_most_frequent_latents_come_first():
    rank = rank_by_rate(torch.tensor([0.1, 0.4, 0.0, 0.3]))
    assert rank.tolist() == [2, 0, 3, 1]
    assert groups_of(rank, [1, 4]).tolist() == [1, 0, 1, 1]


def test_rates_of_a_row_are_a_running_mean_that_starts_as_a_plain_one():
    method = trainer(rate_decay=0.99)
    training, stream, counts = start(method), ToyStream(), []
    for step in range(3):
        x = stream.next()
        with torch.no_grad():
            counts.append(training.sae(x, gate=method.gate_at(Progress(step, 9))).codes.fired())
        training.step(x, Progress(step, 9))
    expected = torch.stack(counts).float().mean(0) / 256
    torch.testing.assert_close(training.sae.get_buffer("state_rate"), expected)


def test_k_falls_linearly_to_its_last_value():
    method = trainer(k=5, k_start=3)
    assert [method.gate_at(Progress(step, 10)).k for step in (0, 5, 10)] == [15, 10, 5]


def test_a_tilt_weights_rows_by_the_exponential_of_their_error():
    """Errors 1 and 3 have mean 2; a tilt of 2 log 2 weights them 2 to 8."""
    errors = torch.tensor([1.0, 3.0])
    tilted = tilted_mean(errors, 2 * math.log(2))
    assert tilted.item() == pytest.approx((2 * 1 + 8 * 3) / 10)
    assert tilted_mean(errors, 0.0).item() == pytest.approx(2)


def test_every_look_of_the_encoder_has_the_threshold_that_lets_k_through_on_average():
    method = trainer(k=2, k_start=1, threshold_rate=0.2)
    training, stream = start(method), ToyStream()
    for step in range(60):
        training.step(stream.next(), Progress(step, 60))
    sae, x = training.sae, ToyStream(seed=5, batch=2048).next()
    with torch.no_grad():
        out = sae(x)
    for codes in (*out.early, out.codes):
        assert codes.n_open().double().mean().item() == pytest.approx(2, rel=0.25)
    gates = [gate for gate in (*sae.early, sae.gate) if isinstance(gate, JumpReLUGate)]
    assert len(gates) == 2
    assert not torch.equal(gates[0].threshold, gates[1].threshold)


def test_a_warm_up_in_steps_is_longer_than_its_share_or_it_is_not_used():
    optim = Optim(lr=1.0, warmup=0.1, warmup_steps=40)
    assert optim.lr_at(19, 100) == pytest.approx(20 / 41)
    assert optim.lr_at(19, 1000) == pytest.approx(20 / 101)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prefixes": (0.5, 0.9)}, "end with 1"),
        ({"prefixes": ()}, "end with 1"),
        ({"ista_steps": -1}, "ista_steps"),
        ({"k_start": 0}, "k_start"),
        ({"tilt": -0.1}, "tilt"),
        ({"sort_every": -1}, "sort_every"),
    ],
)
def test_what_cannot_be_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        trainer(**fields)
