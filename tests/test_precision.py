"""bf16 training: the products are rounded, the weights are not, and features are still found."""

from dataclasses import replace

import pytest
import torch

from gradsae.interfaces import Progress, Trainer
from gradsae.optim import Optim
from gradsae.sae import kernels
from gradsae.sae.codes import SparseCodes
from gradsae.sae.kernels.gates.gate import Gate
from gradsae.sae.kernels.gates.threshold import JumpGate, ReLUGate
from gradsae.sae.kernels.gates.topk import TopKGate
from gradsae.sae.kernels.precision import Precision
from gradsae.seeds import make_generator
from gradsae.trainers.gba import GBA
from gradsae.trainers.l1 import L1
from gradsae.trainers.topk import TopK
from gradsae.training.checkpoints import shape_of
from gradsae.training.fit import FitSettings, Training

OPTIM = Optim(lr=1e-2)
PRECISIONS: list[Precision] = ["fp32", "bf16"]
TRAINERS = [
    TopK(d_sae=16, k=2, optim=OPTIM),
    TopK(d_sae=16, k=2, optim=OPTIM, dead_after=64, aux_k=4),
    L1(d_sae=16, l1=0.1, optim=OPTIM),
    GBA(d_sae=16, groups=1, optim=OPTIM),
]


def integers(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Small integers: bf16 holds them and what they add up to. They tie, so k is d_sae here."""
    return torch.randint(-3, 4, shape, generator=generator).float()


@pytest.mark.parametrize("gate", [TopKGate(k=21), ReLUGate(), JumpGate()], ids=repr)
@pytest.mark.parametrize("shift", [0, -14], ids=["dense", "sparse"])
def test_numbers_that_bf16_holds_give_what_fp32_gives(gate: Gate, shift: int, generator):
    x, target = integers(generator, 9, 4), integers(generator, 9, 4)
    W_enc, W_dec, b_pre = (integers(generator, *s) for s in ((21, 4), (21, 4), (4,)))
    b_enc = -integers(generator, 21).abs() + shift
    answers = []
    for precision in PRECISIONS:
        leaves = [t.clone().requires_grad_() for t in (W_enc, b_enc, b_pre, W_dec)]
        W, b, c, D = leaves
        codes = kernels.encode(x, W, b, c, gate, precision=precision).codes
        recon = kernels.decode(codes, D, precision)
        (recon * target).sum().backward()  # the gradient of recon is then of integers too
        grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in leaves]
        answers.append([codes.to_dense(), recon, *grads])
        assert shift == 0 or isinstance(codes, SparseCodes)
    for fp32, bf16 in zip(*answers, strict=True):
        assert bf16.dtype == torch.float32
        torch.testing.assert_close(bf16, fp32, rtol=2**-8, atol=0)


def world(generator: torch.Generator, n: int) -> torch.Tensor:
    """Two of 16 orthogonal features a row, in 16 dimensions that are not their axes."""
    axes = torch.linalg.qr(torch.randn(16, 16, generator=make_generator(0, "axes"))).Q
    which = torch.rand(n, 16, generator=generator).topk(2).indices
    sizes = 1 + torch.rand(n, 2, generator=generator)
    return torch.zeros(n, 16).scatter(1, which, sizes) @ axes


def training(trainer: Trainer, precision: Precision) -> Training:
    sample = world(make_generator(0, "sample"), 512)
    return Training(trainer, trainer.build(sample, make_generator(0, "init")), precision=precision)


@pytest.mark.parametrize("trainer", TRAINERS, ids=["topk", "auxk", "l1", "gba"])
def test_gradients_in_bf16_are_near_those_in_fp32(trainer: Trainer):
    x = world(make_generator(0, "data"), 512)
    grads = {}
    for precision in PRECISIONS:
        run = training(trainer, precision)
        if isinstance(trainer, TopK):
            run.sae.get_buffer("state_idle")[:8] = trainer.dead_after  # so that AuxK has work
        run.step(x, Progress(0, 10))
        grads[precision] = [p.grad for p in run.sae.parameters() if p.grad is not None]
    for fp32, bf16 in zip(grads["fp32"], grads["bf16"], strict=True):
        assert bf16.dtype == torch.float32
        assert (bf16 - fp32).norm() < 0.03 * fp32.norm()
        assert not torch.equal(bf16, fp32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_precisions_find_the_features_of_a_toy(precision: Precision):
    run = training(TopK(d_sae=16, k=2, optim=OPTIM), precision)
    stream = make_generator(0, "data")
    for step in range(200):
        run.step(world(stream, 128), Progress(step, 200))
    axes = torch.linalg.qr(torch.randn(16, 16, generator=make_generator(0, "axes"))).Q
    found = (axes @ run.sae.decoder().detach().mT).amax(1)
    assert found.mean() > 0.95


def test_an_unknown_precision_is_refused():
    with pytest.raises((ValueError, TypeError), match="precision"):  # TypeError: tests check types
        FitSettings(steps=1, batch_size=1, precision="fp8")  # pyright: ignore[reportArgumentType]


def test_only_another_precision_than_fp32_changes_what_identifies_an_sae():
    plain = {"steps": 3, "batch_size": 4, "init_rows": 5}
    settings = FitSettings(steps=3, batch_size=4, init_rows=5)
    assert shape_of(settings) == plain
    assert shape_of(replace(settings, precision="bf16")) == {**plain, "precision": "bf16"}
