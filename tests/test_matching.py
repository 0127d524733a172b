"""Cosine matching equals brute force, at any block size, and minds the sign."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gradsae.metrics import assignment
from gradsae.metrics.matching import max_cosines, one_to_one


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


def planted(n_a: int, n_b: int, d: int, noise: float, generator) -> tuple[Tensor, Tensor]:
    """Directions, and others that lie near one of them each, several near the same one."""
    a = torch.randn(n_a, d, generator=generator)
    b = a[torch.randint(n_a, (n_b,), generator=generator)]
    return a, b + noise * torch.randn(n_b, d, generator=generator)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.5, 100.0])
@pytest.mark.parametrize("sizes", [(150, 400), (400, 150), (250, 250), (3, 90), (1, 2)])
def test_the_matching_without_the_table_has_the_sum_that_scipy_finds(
    sizes, noise, absolute, generator
):
    a, b = planted(sizes[0], sizes[1], 8, noise, generator)
    table = np.abs(cosines(a, b)) if absolute else cosines(a, b)
    best = table[linear_sum_assignment(table, maximize=True)].sum()
    matching = one_to_one(a, b, absolute=absolute, max_pairs=1)
    assert len(set(matching.a.tolist())) == len(set(matching.b.tolist())) == min(sizes)
    assert matching.a.tolist() == sorted(matching.a.tolist())
    pairs = table[matching.a.numpy(), matching.b.numpy()]
    np.testing.assert_allclose(matching.cosine.numpy(), pairs, atol=1e-6)
    assert pairs.sum() == pytest.approx(best, abs=1e-6 * min(sizes))


def test_candidates_that_cannot_all_be_matched_are_added_to(generator, monkeypatch):
    # every row's nearest columns are the same few: the first candidates leave most rows alone
    monkeypatch.setattr(assignment, "N_NEAREST", 2)
    monkeypatch.setattr(assignment, "N_ADDED", 1)
    rounds = []
    solve = assignment._solve
    monkeypatch.setattr(assignment, "_solve", lambda *given: rounds.append(1) or solve(*given))
    a = torch.eye(6)[0] + 0.01 * torch.randn(40, 6, generator=generator)
    b = torch.randn(60, 6, generator=generator)
    table = cosines(a, b)
    best = table[linear_sum_assignment(table, maximize=True)].sum()
    matching = one_to_one(a, b, max_pairs=1)
    assert len(rounds) > 1
    assert matching.cosine.double().sum().item() == pytest.approx(best, abs=1e-5)


def test_the_matching_without_the_table_holds_no_more_cosines_than_allowed(generator, monkeypatch):
    monkeypatch.setattr(assignment, "ENTRIES", 1000)
    a, b = planted(50, 90, 6, 0.3, generator)
    blocks = [cosine.numel() for _, cosine in assignment._blocks(a, b, False)]
    assert max(blocks) <= 1000
    assert sum(blocks) == 50 * 90
    narrow = one_to_one(a, b, max_pairs=1)
    monkeypatch.undo()
    assert narrow.b.tolist() == one_to_one(a, b, max_pairs=1).b.tolist()
