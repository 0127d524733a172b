"""Screening in bfloat16 selects what the float32 product selects."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from gradsae.sae.codes import SparseCodes
from gradsae.sae.kernels import screen, select, top


@pytest.fixture(autouse=True)
def screened(monkeypatch):
    """Screen small matrices too, on any CPU: bfloat16 products are slow there, not wrong."""
    monkeypatch.setattr(screen, "_hardware", lambda: True)
    monkeypatch.setattr(screen, "MIN_ROWS", 1)
    monkeypatch.setattr(screen, "MIN_MULTIPLY_ADDS", 1)


def rows(generator, n, d, *, spread: float = 0.0) -> torch.Tensor:
    drawn = torch.randn(n, d, generator=generator)
    return drawn * torch.exp(spread * torch.randn(n, 1, generator=generator))


def assert_same_entries(codes: SparseCodes, pre: torch.Tensor, kept: torch.Tensor) -> None:
    """`codes` hold the entries of `pre` that `kept` marks, each once."""
    dense = codes.to_dense()
    assert codes.offsets.diff().tolist() == kept.sum(1).tolist()
    torch.testing.assert_close(dense, pre * kept, rtol=1e-4, atol=1e-4)
    assert torch.equal(dense != 0, kept)


@pytest.mark.parametrize("spread", [0.0, 1.5], ids=["even", "uneven"])
@pytest.mark.parametrize(("d_in", "d_sae", "k"), [(16, 500, 4), (96, 1000, 32), (7, 130, 1)])
def test_the_top_k_is_that_of_the_float32_product(d_in, d_sae, k, spread, generator):
    x, W = rows(generator, 90, d_in, spread=spread), rows(generator, d_sae, d_in, spread=spread)
    b = torch.randn(d_sae, generator=generator)
    codes = screen.top_k(x, W, b, k)
    assert codes is not None
    pre = (x.double() @ W.double().mT + b).float()
    kept = torch.zeros_like(pre, dtype=torch.bool).scatter(1, pre.topk(k).indices, True)
    assert_same_entries(codes, pre, kept)


@pytest.mark.parametrize("spread", [0.0, 1.5], ids=["even", "uneven"])
def test_the_open_entries_are_those_of_the_float32_product(spread, generator):
    x, W = rows(generator, 80, 48, spread=spread), rows(generator, 900, 48, spread=spread)
    b = -2.5 * W.norm(dim=1)
    x[7] = 0  # a row with nothing open
    codes = screen.above_zero(x, W, b, most=80 * 900)
    assert codes is not None
    pre = (x.double() @ W.double().mT + b).float()
    assert_same_entries(codes, pre, pre > 0)
    assert codes.n_open()[7] == 0


def test_no_true_entry_lies_outside_its_bounds(generator):
    x, W = rows(generator, 64, 300, spread=1.0), rows(generator, 700, 300, spread=1.0)
    W[:5] = x[:5] * 3  # the largest products there are
    b = torch.randn(700, generator=generator)
    pre = x.double() @ W.double().mT + b
    wide, low, mask = np.empty(700, np.uint32), np.empty(700, np.float32), top.blank(700)
    product = wide.view(np.float32)
    for part, bits, (bias, norm, reach) in screen._products(x, W, b):
        for row, i in enumerate(range(64)[part]):
            screen._widen(bits[row], wide)
            screen._lowest(product, bias, norm, reach[row], low)
            assert (torch.from_numpy(low) <= pre[i]).all()
            for level in pre[i].quantile(torch.tensor([0.0, 0.5, 0.99, 1.0]).double()):
                reached = pre[i] >= level
                screen._mark(product, bias, norm, reach[row], np.float32(level), mask)
                assert mask[:700][reached.numpy()].all()
                assert mask[:700].sum() < 1.5 * reached.sum() + 60  # and not for want of a bound


@pytest.mark.parametrize("n", [5, 64, 700, 4099])
@pytest.mark.parametrize("k", [1, 3, 32])
def test_the_kth_largest_is_that_of_a_sort(n, k):
    draws = np.random.default_rng(n * 100 + k)
    for tied in (False, True):
        row = draws.standard_normal(n).astype(np.float32)
        row = np.round(row, 1) if tied else row
        k = min(k, n)
        heap, lanes = np.empty(k, np.float32), np.empty(top.LANES * k, np.float32)
        kth = np.sort(row)[-k]
        assert top.least_of_few(row, n, heap) == top.least_of_largest(row, n, heap) == kth
        assert top.level_below(row, n, k, lanes) <= kth


def test_positions_are_those_of_the_marks_and_are_counted_beyond_the_room():
    mask = top.blank(21)
    mask[[0, 6, 7, 8, 20]] = 1
    out = np.full(3, -1, np.int32)
    assert len(mask) == 24
    assert top.positions(mask, mask.view(np.uint64), out) == 5
    assert out.tolist() == [0, 6, 7]


def test_near_ties_fall_back_to_the_float32_product(generator):
    x = rows(generator, 70, 32)
    W = normalize(rows(generator, 1, 32), dim=1).repeat(4000, 1)
    W += 1e-5 * rows(generator, 4000, 32)
    b = torch.zeros(4000)
    assert screen.top_k(x, W, b, 3) is None
    pre = x @ W.mT
    found = select.top_k(x, W, b, 3).values.view(70, 3).sort(1).values
    torch.testing.assert_close(found, pre.topk(3).values.sort(1).values)


def test_more_open_entries_than_allowed_come_back_as_a_matrix(generator):
    x, W = rows(generator, 70, 32), rows(generator, 600, 32)
    codes = select.above_zero(x, W, torch.zeros(600))
    torch.testing.assert_close(codes.to_dense(), x @ W.mT)


def test_rows_that_are_not_finite_are_left_to_the_float32_product(generator):
    x, W = rows(generator, 70, 32), rows(generator, 3000, 32)
    x[3, 4] = float("nan")
    assert screen.top_k(x, W, torch.zeros(3000), 4) is None
    codes = select.top_k(x, W, torch.zeros(3000), 4)
    assert not codes.values.isfinite().all()


def test_the_number_of_threads_and_chunks_changes_no_bit(generator, monkeypatch):
    x, W, b = rows(generator, 300, 64), rows(generator, 2000, 64), torch.zeros(2000)
    first, second = screen.top_k(x, W, b, 8), screen.above_zero(x, W, b - 20, 30_000)
    monkeypatch.setattr(screen, "CHUNK_BYTES", 2 * 2000 * 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    again = screen.top_k(x, W, b, 8), screen.above_zero(x, W, b - 20, 30_000)
    for one, other in zip((first, second), again, strict=True):
        assert one is not None and other is not None
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.latents, other.latents)
