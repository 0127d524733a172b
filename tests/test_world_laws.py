"""The laws of a world's parts: rates, trees, correlation, directions."""

import numpy as np
import pytest
import torch

from gradsae.sources.world import laws
from gradsae.sources.world.dictionary import dictionary, spread_out
from gradsae.sources.world.parts import Trees


def test_zipf_runs_from_the_highest_to_the_lowest_rate():
    rates = laws.zipf(4, 0.5, 0.4, 0.1)
    raw = np.array([1, 2**-0.5, 3**-0.5, 0.5])
    np.testing.assert_allclose(rates.numpy(), 0.1 + 0.3 * (raw - 0.5) / 0.5)


def test_compensation_divides_by_the_parent_and_adds_the_expected_rivals():
    trees = Trees(
        parent=torch.tensor([-1, 0, 0, 1, 1]),
        group=torch.tensor([-1, -1, -1, 1, 1]),
        scaled=torch.zeros(5, dtype=torch.bool),
    )
    rates = torch.tensor([0.5, 0.2, 0.1, 0.08, 0.04], dtype=torch.float64)
    expected = [0.5, 0.2 / 0.5, 0.1 / 0.5, 0.08 / 0.2 * (1 + 0.04 / 0.2), 0.04 / 0.2 * 1.4]
    np.testing.assert_allclose(laws.compensated(rates, trees).numpy(), expected)
    rates[3] = 0.19
    assert laws.compensated(rates, trees)[3] == 1


def test_trees_are_complete_and_numbered_by_level():
    generator = torch.Generator().manual_seed(0)
    trees = laws.grown_trees(20, 2, 2, 2, 1.0, True, generator)
    assert trees.parent.tolist() == [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, *[-1] * 6]
    assert trees.group.tolist() == trees.parent.tolist()
    assert trees.scaled.tolist() == [i >= 0 for i in trees.parent.tolist()]
    assert [len(level) for level in trees.levels()] == [8, 4, 8]


def test_a_share_of_the_parents_has_exclusive_children():
    generator = torch.Generator().manual_seed(0)
    trees = laws.grown_trees(100, 10, 3, 1, 0.35, False, generator)
    assert len(trees.group[trees.group >= 0].unique()) == 3
    assert (trees.group >= 0).sum() == 9
    assert not trees.scaled.any()


def test_correlated_rows_are_shortened_to_leave_each_feature_something_of_its_own():
    factor = laws.correlation_factor(200, 25, 0.3, torch.Generator().manual_seed(0))
    squares = factor.square().sum(1)
    assert squares.max().item() == pytest.approx(0.99)
    assert (squares < 0.98).any()


def test_spreading_out_follows_the_gradient_of_the_stated_loss(generator):
    start = torch.nn.functional.normalize(torch.randn(20, 6, generator=generator), dim=1)
    v = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([v], lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        dots = v @ v.T
        off = dots - dots.diag().diag()
        (off.square().sum() + 20 * (dots.diag() - 1).square().sum()).backward()
        optimizer.step()
    expected = torch.nn.functional.normalize(v.detach(), dim=1)
    torch.testing.assert_close(spread_out(start, 10, 0.01), expected, rtol=0, atol=1e-5)


def test_a_large_dictionary_is_read_from_its_file_the_next_time(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADSAE_CACHE", str(tmp_path))
    monkeypatch.setattr("gradsae.sources.world.dictionary.KEEP_FROM", 1)
    args = (30, 10, 3, 0.01, 9)
    made = dictionary.__wrapped__(*args)
    assert len(list(tmp_path.glob("dictionaries/*/directions.safetensors"))) == 1
    monkeypatch.setattr("gradsae.sources.world.dictionary.spread_out", None)
    assert torch.equal(dictionary.__wrapped__(*args), made)


@pytest.mark.parametrize(
    ("parent", "message"),
    [([1, 0], "its own ancestor"), ([-1, 2], "a parent must be a feature from 0 to 1")],
)
def test_trees_that_are_none_are_refused(parent, message):
    with pytest.raises(ValueError, match=message):
        Trees(
            parent=torch.tensor(parent),
            group=torch.tensor([-1, -1]),
            scaled=torch.zeros(2, dtype=torch.bool),
        )
