"""Training steps: ours, other libraries', a plain dense one, and what cannot be avoided.

One unit of work is one optimiser step on one batch: forward, loss, backward, fused Adam. Ours is
the whole of `fit.Training.step`, with its logged parts, dead-latent and rate counters, unit rows
and learning-rate schedule. The others do less: their module's forward, the same loss and the
backward, and fused Adam; nothing of their training loops. Batches are sparse mixtures of d_sae
directions; the biases are set so that about 64 latents open where no k does that.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.speed import peers
from benchmarks.speed.case import FLOOR, Case, Setup, Work

L0 = 64
"""Of the methods without k."""


class Shape(NamedTuple):
    batch: int
    d_in: int
    d_sae: int
    k: int

    def __str__(self) -> str:
        return f"batch {self.batch}, d_in {self.d_in}, d_sae {self.d_sae}, k {self.k}"


SHAPES = (Shape(1024, 768, 16384, 32), Shape(2048, 576, 4096, 32))


def cases() -> list[Case]:
    unit = "one training step; others: forward, same loss, backward, fused Adam in float32"
    bars = {"saelens": 4, "dictionary_learning": 4, FLOOR: 1.5}
    listed = [
        Case(
            name="topk step",
            shape=str(shape),
            unit=unit,
            ours=lambda s=shape: ours("topk", s),
            contenders={
                "saelens": lambda s=shape: peers.saelens_topk(batch(s), s.d_sae, s.k),
                "dictionary_learning": lambda s=shape: peers.dictionary_learning_topk(
                    batch(s), s.d_sae, s.k
                ),
                "dense": lambda s=shape: dense_topk(s),
                FLOOR: lambda s=shape: floor(s),
            },
            bars=bars,
        )
        for shape in SHAPES
    ]
    shape = SHAPES[0]
    text = str(shape).replace(f"k {shape.k}", f"l0 {L0}")
    for name, saelens in (("gba", None), ("jumprelu", "jumprelu"), ("l1", "standard")):
        contenders: dict[str, Setup] = {"dense": lambda n=name: dense_threshold(n, shape)}
        if saelens:
            contenders["saelens"] = lambda n=saelens: peers.saelens_threshold(
                n, batch(shape), opening_biases(shape), shape.d_sae
            )
        contenders[FLOOR] = lambda: floor(shape._replace(k=L0))
        listed.append(
            Case(
                name=f"{name} step",
                shape=text,
                unit=unit,
                ours=lambda n=name: ours(n, shape),
                contenders=contenders,
                bars=dict.fromkeys(contenders.keys() - {FLOOR}, 2.5),
            )
        )
    return listed


def batch(shape: Shape) -> Tensor:
    """Return sparse mixtures of d_sae directions at mean squared norm 1, as for a real layer."""
    from gradsae.seeds import make_generator
    from gradsae.sources.superposition import Superposition

    world = Superposition(
        n_features=shape.d_sae,
        width=shape.d_in,
        l0=min(32, shape.d_sae / 4),
        support="bernoulli",
        exponent=0.5,
        coefficients="half_normal",
        noise=0.02,
    )
    x = world.held_out(shape.batch, 0).x
    x += 1e-3 * torch.randn(x.shape, generator=make_generator(0, "data"))
    return x / x.square().sum(1).mean().sqrt()


def _weights(shape: Shape) -> Tensor:
    from gradsae.sae.directions import random_directions
    from gradsae.seeds import make_generator

    return random_directions(shape.d_sae, shape.d_in, make_generator(0, "init"))


def opening_biases(shape: Shape) -> Tensor:
    """Return the biases at which every latent fires on L0 / d_sae of the batch."""
    x = batch(shape)
    rank = max(1, round(L0 / shape.d_sae * len(x)))
    levels = [(x @ W.mT).topk(rank, dim=0).values[-1] for W in _weights(shape).split(1024)]
    return -torch.cat(levels) + 1e-6


def ours(name: str, shape: Shape) -> Work:
    from gradsae.interfaces import Progress
    from gradsae.optim import Optim
    from gradsae.seeds import make_generator
    from gradsae.trainers.gba import GBA
    from gradsae.trainers.jumprelu import JumpReLU
    from gradsae.trainers.l1 import L1
    from gradsae.trainers.topk import TopK
    from gradsae.training.fit import Training

    optim, rate = Optim(lr=1e-7), L0 / shape.d_sae  # small: the sparsity stays as it is set
    trainer = {
        "topk": lambda: TopK(d_sae=shape.d_sae, k=shape.k, optim=optim),
        "gba": lambda: GBA(
            d_sae=shape.d_sae, optim=optim, groups=1, htf=rate, tied=False, normalise="unit"
        ),
        "jumprelu": lambda: JumpReLU(d_sae=shape.d_sae, coefficient=1e-3, optim=optim),
        "l1": lambda: L1(d_sae=shape.d_sae, l1=1e-3, optim=optim, normalise="unit"),
    }[name]()
    x = batch(shape)
    sae = trainer.build(x, make_generator(0, "init"))
    with torch.no_grad():
        sae.W_enc.copy_(_weights(shape))
        sae.b_dec.zero_()
        if name != "topk":
            sae.b_enc.copy_(opening_biases(shape))
    training = Training(trainer, sae)
    return lambda: training.step(x, Progress(0, 1000))


def floor(shape: Shape) -> Work:
    """What no method with dense encoder weights can avoid, by torch built-ins."""
    x, W = batch(shape), _weights(shape)
    parameters = [nn.Parameter(torch.zeros_like(W)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 1e-3
    adam = torch.optim.Adam(parameters, lr=1e-7, fused=True)

    def work() -> None:
        with torch.no_grad():
            (x @ W.mT).topk(shape.k, dim=1, sorted=False)
        adam.step()

    return work


def dense_topk(shape: Shape) -> Work:
    """The step as it is commonly written: dense codes, autograd, fused Adam."""

    def encode(pre: Tensor, b: Tensor) -> Tensor:
        top = pre.topk(shape.k, dim=1, sorted=False)
        return torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())

    return _dense(shape, encode, lambda codes, pre, W_dec: codes.new_zeros(()))


def dense_threshold(name: str, shape: Shape) -> Work:
    from gradsae.sae.kernels.jump import jump, step

    threshold = nn.Parameter(torch.full((shape.d_sae,), 1e-3))

    def encode(pre: Tensor, b: Tensor) -> Tensor:
        if name == "gba":
            return (pre - b.detach()) * (pre > 0)
        if name == "l1":
            return pre.relu()
        return jump(pre, threshold.expand_as(pre), 1e-3, False)

    def penalty(codes: Tensor, pre: Tensor, W_dec: Tensor) -> Tensor:
        if name == "gba":
            return codes.new_zeros(())
        if name == "l1":
            return 1e-3 * (codes @ W_dec.norm(dim=1)).mean()
        return 1e-3 * step(pre, threshold.expand_as(pre), 1e-3, False).sum(1).mean()

    extra = [threshold] if name == "jumprelu" else []
    return _dense(shape, encode, penalty, opening_biases(shape), extra)


def _dense(
    shape: Shape,
    encode: Callable[[Tensor, Tensor], Tensor],
    penalty: Callable[[Tensor, Tensor, Tensor], Tensor],
    biases: Tensor | None = None,
    extra: list[nn.Parameter] | None = None,
) -> Work:
    """Return a step that returns its squared error: the mean over rows, before the update."""
    x = batch(shape)
    W_enc, W_dec = nn.Parameter(_weights(shape)), nn.Parameter(_weights(shape))
    b_enc = nn.Parameter(torch.zeros(shape.d_sae) if biases is None else biases)
    b_dec = nn.Parameter(torch.zeros(shape.d_in))
    adam = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec, *(extra or [])], lr=1e-7, fused=True)

    def work() -> Tensor:
        pre = torch.addmm(b_enc, x - b_dec, W_enc.mT)
        codes = encode(pre, b_enc)
        error = (codes @ W_dec + b_dec - x).square().sum(1).mean()
        adam.zero_grad(set_to_none=True)
        (error + penalty(codes, pre, W_dec)).backward()
        adam.step()
        return error.detach()

    return work
