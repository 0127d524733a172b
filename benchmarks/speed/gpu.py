"""TopK steps and a long run on a GPU, in bf16, against other libraries and what cannot be avoided.

Written without a GPU and not yet run on one: the parts run on the CPU at toy sizes (a test), the
kernels in Triton's interpreter and through its compiler. No number here has been measured.

One unit of work is STEPS training steps and a wait for the device. Every contender has fp32 weights
and fused Adam and multiplies in bf16. Ours is `fit.Training.step` whole; the others do forward,
loss, backward and Adam, and nothing of their training loops. No contender has an auxiliary loss.

`python -m benchmarks.speed.gpu` prints how long 200 million samples of a world would take.
"""

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.speed.case import Absent, Case, Setup, Work

if TYPE_CHECKING:
    from gradsae.interfaces import Source

STEPS = 10
"""Training steps in one unit of work: the host runs ahead, as it does in training."""
LIVE = 32
"""Directions in one row of a batch."""
RUN_SAMPLES = 200_000_000
SIDE = 8192
"""Rows and columns of the product that measures the bf16 peak."""


class Shape(NamedTuple):
    batch: int
    d_in: int
    d_sae: int
    k: int

    def __str__(self) -> str:
        return f"batch {self.batch}, d_in {self.d_in}, d_sae {self.d_sae}, k {self.k}"


SHAPES = (Shape(4096, 768, 16384, 32), Shape(8192, 2304, 65536, 64))


def cases() -> list[Case]:
    return [topk_step(shape) for shape in SHAPES]


def topk_step(shape: Shape) -> Case:
    contenders: dict[str, Setup] = {
        "sparsify": lambda: sparsify(shape, cuda()),
        "saelens": lambda: saelens(shape, cuda()),
        "compiled": lambda: compiled(shape, cuda()),
        "floor": lambda: floor(shape, cuda()),
    }
    return Case(
        name="topk step gpu",
        shape=str(shape),
        unit=f"{STEPS} training steps, products in bf16; others: forward, loss, backward, Adam",
        ours=lambda: ours(shape, cuda()),
        contenders=contenders,
        bars={"sparsify": 2, "saelens": 2, "compiled": 2, "floor": 2},
    )


def cuda() -> torch.device:
    if not torch.cuda.is_available():
        raise Absent("no CUDA device")
    return torch.device("cuda")


def batch(shape: Shape, device: torch.device) -> Tensor:
    """Return sparse mixtures of d_sae directions at mean squared norm 1; some are far commoner."""
    generator = torch.Generator(device).manual_seed(0)
    directions = torch.randn(shape.d_sae, shape.d_in, generator=generator, device=device)
    draws = torch.rand(2, shape.batch, LIVE, generator=generator, device=device)
    which = (draws[0].square() * shape.d_sae).long()
    x = nn.functional.embedding_bag(which, directions, mode="sum", per_sample_weights=draws[1])
    return x / x.square().sum(1).mean().sqrt()


def ours(shape: Shape, device: torch.device) -> Work:
    from gradsae.interfaces import Progress
    from gradsae.optim import Optim
    from gradsae.seeds import make_generator
    from gradsae.trainers.topk import TopK
    from gradsae.training.fit import Training

    optim = Optim(lr=1e-7)  # small: what is timed stays as it is
    trainer = TopK(d_sae=shape.d_sae, k=shape.k, optim=optim, dead_after=10**12)
    x = batch(shape, device)
    sae = trainer.build(x[:1024].cpu(), make_generator(0, "init")).to(device)
    training = Training(trainer, sae, precision="bf16")
    return _repeated(lambda: training.step(x, Progress(0, 1000)), device)


def _peer(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise Absent(f"pip install '.[peers]' ({error})") from None


def sparsify(shape: Shape, device: torch.device) -> Work:
    """eai-sparsify's SparseCoder (its forward is under bf16 autocast, its decoder in Triton)."""
    peer = _peer("sparsify")
    config = peer.SparseCoderConfig(num_latents=shape.d_sae, k=shape.k)
    sae = peer.SparseCoder(shape.d_in, config, device=device, dtype=torch.float32)
    x = batch(shape, device)
    return _steps(sae, lambda: sae(x).fvu, device)


def saelens(shape: Shape, device: torch.device) -> Work:
    """SAELens's TopK under bf16 autocast, which it documents as its fast setting on a GPU."""
    peer = _peer("sae_lens")
    config = peer.TopKTrainingSAEConfig(
        d_in=shape.d_in,
        d_sae=shape.d_sae,
        k=shape.k,
        rescale_acts_by_decoder_norm=False,
        normalize_activations="none",
        dtype="float32",
        device=str(device),
    )
    sae, x = peer.TopKTrainingSAE(config), batch(shape, device)
    step_input = _peer("sae_lens.saes.sae").TrainStepInput(
        sae_in=x,
        coefficients={},
        dead_neuron_mask=None,
        n_training_steps=0,
        is_logging_step=False,
    )

    def loss() -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return sae.training_forward_pass(step_input).loss

    return _steps(sae, loss, device)


class Dense(nn.Module):
    """A TopK SAE as it is commonly written: dense codes, autograd."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        super().__init__()
        self.k = shape.k
        W = torch.randn(shape.d_sae, shape.d_in, device=device)
        W = nn.functional.normalize(W, dim=1)
        self.W_enc, self.W_dec = nn.Parameter(W.clone()), nn.Parameter(W)
        self.b_enc = nn.Parameter(torch.zeros(shape.d_sae, device=device))
        self.b_dec = nn.Parameter(torch.zeros(shape.d_in, device=device))

    def forward(self, x: Tensor) -> Tensor:
        pre = nn.functional.linear(x - self.b_dec, self.W_enc, self.b_enc)
        top = pre.topk(self.k, dim=1, sorted=False)
        codes = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
        error = (codes @ self.W_dec).float() + self.b_dec - x
        return error.square().sum() / (x - x.mean(0)).square().sum()


def compiled(shape: Shape, device: torch.device) -> Work:
    """The plain dense step under torch.compile and bf16 autocast."""
    sae, x = Dense(shape, device), batch(shape, device)
    fast = torch.compile(sae)

    def loss() -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return fast(x)

    return _steps(sae, loss, device)


def floor(shape: Shape, device: torch.device, side: int = SIDE) -> Work:
    """The encoder's multiply-adds at the bf16 peak, and the bytes that must move at full bandwidth.

    Both rates are measured by doing the work: one large product of as many multiply-adds, and one
    copy of as many bytes. The bytes are Adam's (weight, gradient and two moments of both matrices
    read, all but the gradient written, in fp32) and the codes' (fp32 value and int64 latent of
    each entry, written and read).
    """
    macs = STEPS * shape.batch * shape.d_in * shape.d_sae
    n_bytes = 2 * shape.d_sae * shape.d_in * 7 * 4 + 2 * shape.batch * shape.k * (4 + 8)
    rows = max(1, macs // side**2)
    a = torch.randn(rows, side, device=device, dtype=torch.bfloat16)
    b = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    source = torch.zeros(n_bytes // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def work() -> None:
        torch.matmul(a, b)
        for _ in range(STEPS):
            target.copy_(source)
        wait(device)

    return work


def benchmark_world() -> "Source":
    """SynthSAEBench-16k (conf/source/synthsaebench_16k.yaml); building it takes minutes, once."""
    from gradsae.sources.forest import Forest

    return Forest(n_features=16384, width=768, n_roots=128, seed=42)


def world_run(world: "Source", batch_size: int, d_sae: int, k: int, device: torch.device) -> Work:
    """STEPS batches drawn on the CPU, sent to the device and trained on."""
    from gradsae.interfaces import Progress
    from gradsae.optim import Optim
    from gradsae.seeds import make_generator
    from gradsae.trainers.topk import TopK
    from gradsae.training.fit import Training

    trainer = TopK(d_sae=d_sae, k=k, optim=Optim(lr=3e-4))
    sample = world.stream(2048, 0, torch.device("cpu")).next()
    sae = trainer.build(sample, make_generator(0, "init")).to(device)
    training = Training(trainer, sae, precision="bf16")
    stream = world.stream(batch_size, 0, device)
    return _repeated(lambda: training.step(stream.next(), Progress(0, 1000)), device)


def samples_per_second(work: Work, batch_size: int, n_units: int = 20) -> float:
    """Return the rate over `n_units` units of STEPS batches, after one unit of warm-up."""
    work()
    started = time.perf_counter()
    for _ in range(n_units):
        work()
    return n_units * STEPS * batch_size / (time.perf_counter() - started)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _repeated(step: Work, device: torch.device) -> Work:
    def work() -> None:
        for _ in range(STEPS):
            step()
        wait(device)

    return work


def _steps(sae: nn.Module, loss: Work, device: torch.device) -> Work:
    adam = torch.optim.Adam(sae.parameters(), lr=1e-7, fused=True)

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        value = loss()
        assert isinstance(value, Tensor)
        value.backward()
        adam.step()

    return _repeated(step, device)


if __name__ == "__main__":
    try:
        device = cuda()
    except Absent as absent:
        raise SystemExit(f"not run: {absent}") from None
    rate = samples_per_second(world_run(benchmark_world(), 1024, 4096, 25, device), 1024)
    print(
        f"{rate:,.0f} samples/s; {RUN_SAMPLES:,} samples at this rate: {RUN_SAMPLES / rate:,.0f} s"
    )
