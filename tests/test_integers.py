"""Screening in 16-bit integers selects what torch's float32 product selects, to the bit."""

import pytest
import torch

from gradsae.sae.codes import SparseCodes
from gradsae.sae.kernels import integers, screen, select

needs_avx2 = pytest.mark.skipif(not integers._hardware(), reason="the CPU has no AVX2")
pytestmark = needs_avx2


def rows(generator, n, d, *, spread: float = 0.0) -> torch.Tensor:
    drawn = torch.randn(n, d, generator=generator)
    return drawn * torch.exp(spread * torch.randn(n, 1, generator=generator))


def screened(monkeypatch, *shape: int) -> None:
    """Screen small matrices too; skip the test where torch sums up this shape in another order."""
    monkeypatch.setattr(screen, "_hardware", lambda: False)
    monkeypatch.setattr(integers, "MIN_ROWS", 1)
    monkeypatch.setattr(integers, "MIN_MULTIPLY_ADDS", 1)
    if integers._block(*shape, torch.get_num_threads()) == 0:
        pytest.skip("torch's product adds in an order that is not known here")


def assert_same_bits(codes: SparseCodes | None, expected: SparseCodes) -> None:
    assert codes is not None
    for name in ("values", "latents", "offsets"):
        assert torch.equal(getattr(codes, name), getattr(expected, name))


@pytest.mark.parametrize("spread", [0.0, 1.5], ids=["even", "uneven"])
@pytest.mark.parametrize(("n", "d_in", "d_sae", "k"), [(200, 96, 1001, 32), (131, 400, 700, 3)])
def test_the_selection_has_the_bits_of_the_product(
    n, d_in, d_sae, k, spread, generator, monkeypatch
):
    x, W = rows(generator, n, d_in, spread=spread), rows(generator, d_sae, d_in, spread=spread)
    b = torch.randn(d_sae, generator=generator)
    low = b - 2.2 * W.norm(dim=1)
    x[5], W[9] = 0, 0
    monkeypatch.setattr(select, "screen", lambda x, W: None)
    monkeypatch.setattr(select, "DENSE_ABOVE", 1.0)
    top, above = select.top_k(x, W, b, k), select.above_zero(x, W, low)
    screened(monkeypatch, n, d_sae, d_in)
    assert integers.applies(x, W)
    assert_same_bits(integers.top_k(x, W, b, k), top)
    assert isinstance(above, SparseCodes)
    assert_same_bits(integers.above_zero(x, W, low, most=n * d_sae), above)


def test_candidates_are_few_and_hold_all_that_is_above_zero(generator, monkeypatch):
    x, W = rows(generator, 90, 320, spread=1.0), rows(generator, 700, 320, spread=1.0)
    W[:5] = x[:5] * 3  # the largest products there are
    b = -2 * W.norm(dim=1)
    screened(monkeypatch, 90, 700, 320)
    some = integers._candidates(x, W, b, 0, 700, 90 * 700)
    assert some is not None
    exact = x.double() @ W.double().mT + b
    is_candidate = some.with_values(torch.ones_like(some.values)).to_dense() > 0
    assert is_candidate[exact > 0].all()
    assert is_candidate.sum() < 1.02 * (exact > 0).sum() + 20
    got = some.values.double()
    torch.testing.assert_close(got, exact[is_candidate], rtol=1e-5, atol=2e-3)


def test_ties_are_broken_as_without_a_screen(generator, monkeypatch):
    x, W = rows(generator, 64, 32), rows(generator, 300, 32).repeat(2, 1)
    monkeypatch.setattr(select, "screen", lambda x, W: None)
    expected = select.top_k(x, W, torch.zeros(600), 5)
    screened(monkeypatch, 64, 600, 32)
    assert_same_bits(integers.top_k(x, W, torch.zeros(600), 5), expected)


def test_what_cannot_be_screened_is_left_to_the_product(generator, monkeypatch):
    x, W, b = rows(generator, 70, 32), rows(generator, 3000, 32), torch.zeros(3000)
    screened(monkeypatch, 70, 3000, 32)
    assert integers.above_zero(x, W, b, most=3000) is None  # half of them are open
    assert integers.top_k(x, W.index_fill(0, torch.tensor([7]), float("inf")), b, 4) is None
    x[3, 4] = float("nan")
    assert integers.top_k(x, W, b, 4) is None


def test_threads_change_no_bit(generator, monkeypatch):
    x, W, b = rows(generator, 300, 64), rows(generator, 2000, 64), torch.zeros(2000)
    screened(monkeypatch, 300, 2000, 64)
    monkeypatch.setattr(integers, "_block", lambda *shape: 64)
    one = integers.top_k(x, W, b, 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    three = integers.top_k(x, W, b, 8)
    assert one is not None and three is not None
    assert_same_bits(three, one)
