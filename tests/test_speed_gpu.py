"""The GPU comparison at toy size on the CPU: it is complete and each contender learns."""

import pytest
import torch

pytest.importorskip("benchmarks.speed.case", reason="the runner is not there")

from benchmarks.speed import gpu
from benchmarks.speed.case import Absent

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
        for setup in (case.ours, *case.others.values()):
            with pytest.raises(Absent, match="no CUDA device"):
                setup()


def test_a_bar_is_set_for_every_contender():
    for case in gpu.cases():
        assert set(case.bars) == set(case.others)


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
