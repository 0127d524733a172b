"""Cosine matching equals brute force, at any block size, and minds the sign."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from gradsae.metrics.matching import max_cosines, one_to_one, too_large


def cosines(a: Tensor, b: Tensor) -> np.ndarray:
    left, right = a.double().numpy(), b.double().numpy()
    left = left / np.linalg.norm(left, axis=1, keepdims=True)
    right = right / np.linalg.norm(right, axis=1, keepdims=True)
    return left @ right.T


@pytest.mark.parametrize("block", [1, 3, 7, 4096])
def test_largest_cosines_equal_numpy_at_any_block_size(block, generator):
    a, b = (torch.randn(n, 4, generator=generator) for n in (10, 7))
    best = max_cosines(a, b, block=block)
    expected = cosines(a, b)
    np.testing.assert_allclose(best.a.numpy(), expected.max(1), atol=1e-6)
    np.testing.assert_allclose(best.b.numpy(), expected.max(0), atol=1e-6)


def test_no_product_is_larger_than_a_block(generator, monkeypatch):
    sizes = []
    matmul = torch.Tensor.__matmul__

    def counted(left, right):
        sizes.append(left.shape[0] * right.shape[1])
        return matmul(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", counted)
    a, b = (torch.randn(n, 2, generator=generator) for n in (100, 70))
    max_cosines(a, b, block=16)
    assert max(sizes) == 16 * 16
    assert sum(sizes) == 100 * 70


def test_an_opposite_direction_is_the_worst_match_and_a_zero_row_no_match():
    a = torch.tensor([[1.0, 0.0]])
    assert max_cosines(a, -3 * a).a.item() == -1
    assert max_cosines(a, torch.zeros(1, 2)).a.item() == 0


def test_nothing_to_match_with_leaves_the_lowest_cosine():
    best = max_cosines(torch.ones(2, 3), torch.zeros(0, 3))
    assert best.a.tolist() == [-1, -1]
    assert best.b.shape == (0,)


def test_no_cosine_exceeds_one(generator):
    a = torch.randn(200, 3, generator=generator)
    assert max_cosines(a, 7 * a).a.max() <= 1
    assert one_to_one(a, 7 * a).cosine.max() <= 1


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("sizes", [(4, 6), (6, 4), (5, 5), (3, 0)])
def test_one_to_one_matching_equals_the_best_of_all_permutations(sizes, absolute, generator):
    a, b = (torch.randn(n, 3, generator=generator) for n in sizes)
    table = cosines(a, b)
    table = np.abs(table) if absolute else table
    wide = table if table.shape[0] <= table.shape[1] else table.T
    n = len(wide)
    best = max(wide[range(n), list(p)].sum() for p in permutations(range(wide.shape[1]), n))
    matching = one_to_one(a, b, absolute=absolute)
    assert len(matching.cosine) == min(sizes)
    assert len(set(matching.a.tolist())) == len(set(matching.b.tolist())) == min(sizes)
    assert matching.cosine.double().sum().item() == pytest.approx(best, abs=1e-5)
    np.testing.assert_allclose(
        matching.cosine.numpy(), table[matching.a.numpy(), matching.b.numpy()], atol=1e-6
    )


def test_too_large_a_matching_gives_its_sizes_as_the_reason():
    assert too_large(10, 10, 100) is None
    reason = too_large(11, 10, 100)
    assert reason is not None
    assert "11 x 10" in reason and "100" in reason
