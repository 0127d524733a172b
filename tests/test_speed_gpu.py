"""The GPU comparison at toy size on the CPU: it is complete and each contender learns."""

import pytest
import torch

pytest.importorskip("benchmarks.speed.case", reason="the runner is not there")

from benchmarks.speed import gpu
from benchmarks.speed.case import Absent
from gradsae.sources.superposition import Superposition

SHAPE = gpu.Shape(batch=64, d_in=16, d_sae=128, k=4)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "setup",
    [gpu.ours, lambda shape, device: gpu.floor(shape, device, side=32)],
    ids=["ours", "floor"],
)
def test_a_contender_runs(setup):
    assert setup(SHAPE, CPU)() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_contender_says_so():
    for case in gpu.cases():
        for setup in (case.ours, *case.contenders.values()):
            with pytest.raises(Absent, match="no CUDA device"):
                setup()


def test_a_bar_is_set_for_every_contender():
    for case in gpu.cases():
        assert set(case.bars) == set(case.contenders)


def test_the_dense_contender_computes_the_fvu_of_its_k_largest():
    sae, x = gpu.Dense(SHAPE, CPU), gpu.batch(SHAPE, CPU)
    pre = x @ sae.W_enc.mT
    kth = pre.sort(1, descending=True).values[:, SHAPE.k - 1 : SHAPE.k]
    codes = torch.where(pre >= kth, pre.relu(), 0.0)
    expected = (codes @ sae.W_dec - x).square().sum() / (x - x.mean(0)).square().sum()
    torch.testing.assert_close(sae(x), expected)


def test_a_batch_has_mean_squared_norm_1():
    x = gpu.batch(SHAPE, CPU)
    assert x.square().sum(1).mean().item() == pytest.approx(1)


def test_the_long_run_counts_every_sample(monkeypatch):
    monkeypatch.setattr(gpu, "STEPS", 2)
    clock = iter([0.0, 5.0])
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: next(clock))
    world = Superposition(n_features=12, width=6, l0=2, support="bernoulli", noise=0.0)
    drawn = []
    work = gpu.world_run(world, 16, 24, 2, CPU)
    rate = gpu.samples_per_second(lambda: drawn.append(work()), 16, n_units=3)
    assert rate == 3 * 2 * 16 / 5.0
    assert len(drawn) == 4
