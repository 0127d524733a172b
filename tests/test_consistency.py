"""Consistency over seeds: identical runs agree fully, random ones at chance, numbers by hand."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gradsae.interfaces import HeldOut, Scores, Source
from gradsae.metrics.across_seeds import Consistency
from gradsae.metrics.consistency import SERIES, consistency, over_pairs, pair_mcc
from gradsae.metrics.selection import RULES, Run, describe, n_top, ranked, z_scores
from gradsae.records.shapes import SCORE_NAME
from gradsae.sae.model import make_sae

MCS = "consistency/mcs_0.9"
PW_MCC = "consistency/pw_mcc"


def make_run(directions: Tensor, name: str = "a", **fields: Any) -> Run:
    n = len(directions)
    defaults = {"live": torch.ones(n, dtype=torch.bool)}
    defaults |= dict.fromkeys(RULES.values(), torch.ones(n))
    return Run(name=name, directions=directions, **{**defaults, **fields})


def own(found: Scores) -> dict[str, float]:
    return {k: v for k, v in found.scores.items() if not k.endswith(("chance", "/own"))}


def test_the_same_dictionary_in_another_order_and_size_agrees_fully(generator):
    W = torch.randn(30, 8, generator=generator)
    order = torch.randperm(30, generator=generator)
    scale = torch.rand(30, 1, generator=generator) + 0.1
    found = consistency([make_run(W), make_run((scale * W)[order])], 0)
    assert own(found) == pytest.approx(dict.fromkeys(own(found), 1.0))
    assert len(own(found)) == 11
    assert all(SCORE_NAME.fullmatch(name) for name in found.scores)


def test_the_negated_dictionary_does_not_agree():
    found = consistency([make_run(torch.eye(5)), make_run(-torch.eye(5))], 0)
    assert found.scores[MCS] == 0
    assert found.scores[PW_MCC] == pytest.approx(0)


def test_shares_are_taken_both_ways_and_matching_counts_the_larger_dictionary():
    """All of the small run is in the large one, half of the large one is in the small."""
    found = consistency([make_run(torch.eye(4)[:2]), make_run(torch.eye(4))], 0).scores
    assert found[MCS] == pytest.approx((1 + 0.5) / 2)
    assert found[PW_MCC] == pytest.approx(2 / 4)


def test_dead_latents_count_on_neither_side(generator):
    W = torch.randn(6, 4, generator=generator)
    live = torch.tensor([True, True, True, False, False, False])
    other = torch.cat([W[:3], torch.randn(3, 4, generator=generator)])
    found = consistency([make_run(W, live=live), make_run(other, live=live)], 0).scores
    assert found[MCS] == 1
    assert found[PW_MCC] == pytest.approx(1)
    crossed = consistency([make_run(W, live=live), make_run(W, live=~live)], 0).scores
    assert crossed[MCS] < 1


def test_a_run_without_live_latents_is_named_in_the_reason():
    dead = make_run(torch.eye(3), "seed 7", live=torch.zeros(3, dtype=torch.bool))
    found = consistency([make_run(torch.eye(3)), dead], 0)
    assert not found.scores
    assert "seed 7" in found.skipped[MCS]
    assert PW_MCC in found.skipped


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5), (5, 3)])
def test_pairwise_mcc_equals_brute_force(sizes, generator):
    a, b = (torch.randn(n, 3, generator=generator) for n in sizes)
    cosine = (normalize(a, dim=1) @ normalize(b, dim=1).mT).double().numpy()
    wide = cosine if len(a) <= len(b) else cosine.T
    n = len(wide)
    best = max(wide[range(n), list(p)].sum() for p in permutations(range(wide.shape[1]), n))
    assert pair_mcc(a, b) == pytest.approx(best / max(sizes), abs=1e-6)


@pytest.mark.parametrize(("rule", "field"), RULES.items())
def test_a_rule_ranks_the_live_latents_by_its_own_statistic(rule: str, field: str):
    live = torch.tensor([True, True, False, True, True])
    fields: dict[str, Any] = {field: torch.tensor([1.0, 3, 9, 0, 2])}
    run = make_run(torch.zeros(5, 2), live=live, **fields)
    assert ranked(run, rule).tolist() == [1, 3, 0, 2], "places among the live ones"


def test_a_top_share_holds_the_nearest_number_of_latents_and_at_least_one():
    assert [n_top(100, share) for share in (0.01, 0.05, 1.0)] == [1, 5, 100]
    assert [n_top(3, share) for share in (0.0005, 0.4, 0.6)] == [1, 1, 2]


def test_a_selected_latent_may_match_any_live_one():
    """Only axis 0 is shared; it has the largest peak in one run and the smallest in the other."""
    first = torch.eye(41)[:20]
    second = torch.cat([torch.eye(41)[:1], torch.eye(41)[20:39]])
    up, down = torch.arange(20.0), torch.arange(20.0).flip(0)
    found = consistency([make_run(first, peak=down), make_run(second, peak=down)], 0).scores
    assert found[f"{MCS}/top_act_5"] == 1
    found = consistency([make_run(first, peak=down), make_run(second, peak=up)], 0).scores
    assert found[f"{MCS}/top_act_5"] == pytest.approx((1 + 0) / 2)
    assert found[MCS] == pytest.approx(1 / 20)


def test_the_series_holds_every_rule_and_top_share_by_hand():
    """Of ten latents axis 0 alone is shared. One run ranks it first by rate, the other last."""
    first, second = torch.eye(20)[:10], torch.cat([torch.eye(20)[:1], torch.eye(20)[10:19]])
    down = torch.arange(10.0).flip(0)
    runs = [make_run(first, rate=down), make_run(second, rate=-down)]
    series = consistency(runs, 0).series[SERIES]
    rows = dict(
        zip(zip(series["rule"], series["alpha"], strict=True), series["share"], strict=True)
    )
    assert rows["rate", 0.1] == 0.5, "the first finds its top latent, the other does not"
    assert rows["rate", 1.0] == pytest.approx(0.1)
    assert rows["act", 0.1] == 1, "ties keep their order, so both keep axis 0"
    assert series["cosine"] == series["share"], "all cosines are 0 or 1 here"


def test_the_mean_largest_cosine_is_that_of_the_drawn_angles():
    """Each latent of the second run is one of the first, turned by 60 degrees into a new axis."""
    first = torch.eye(6)[:3]
    second = 0.5 * first + 0.75**0.5 * torch.eye(6)[3:]
    found = consistency([make_run(first), make_run(second)], 0).scores
    assert found["consistency/max_cosine"] == pytest.approx(0.5)
    assert found[MCS] == 0


def test_a_run_that_crowds_is_seen_against_itself_and_no_latent_matches_itself():
    """Two of four latents are 10 degrees apart, the others at right angles; one is dead."""
    near = torch.tensor([0.17365, 0.98481, 0, 0, 0])
    W = torch.stack([torch.eye(5)[1], near, *torch.eye(5)[2:]])
    run = make_run(W, live=torch.tensor([True, True, True, True, False]))
    found = consistency([run, make_run(torch.eye(5))], 0).scores
    assert found[f"{MCS}/own"] == pytest.approx((0.5 + 0) / 2)
    assert found["consistency/max_cosine/own"] == pytest.approx((2 * 0.98481 / 4 + 0) / 2, abs=1e-4)


def test_random_dictionaries_score_at_chance(generator):
    """Three dimensions and 30 latents, so that chance is far from 0 and 1."""
    gaps: dict[str, list[float]] = {MCS: [], "consistency/max_cosine": [], PW_MCC: []}
    found: dict[str, float] = {}
    for seed in range(20):
        runs = [make_run(torch.randn(30, 3, generator=generator)) for _ in range(3)]
        found = consistency(runs, seed).scores
        for name, gap in gaps.items():
            gap.append(found[name] - found[f"{name}/chance"])
    assert 0.5 < found[f"{MCS}/chance"] < 0.95
    for gap in gaps.values():
        assert abs(np.mean(gap)) < 3 * np.std(gap, ddof=1) / 20**0.5


def test_the_interval_is_the_jackknife_over_runs():
    """Three runs: leaving one out leaves one pair, and t(2 degrees of freedom) is 4.303."""
    values = {(0, 1): 0.2, (0, 2): 0.5, (1, 2): 0.8}
    mean, error = over_pairs(values, 3)
    assert mean == pytest.approx(0.5)
    assert error == pytest.approx((2 / 3 * (0.3**2 + 0 + 0.3**2)) ** 0.5)
    assert over_pairs({(0, 1): 0.2}, 2) == (0.2, None)


def test_intervals_come_with_three_runs_and_stay_in_range(generator):
    near = [torch.eye(40) + 0.06 * torch.randn(40, 40, generator=generator) for _ in range(3)]
    runs = [make_run(W) for W in near]
    found = consistency(runs, 0)
    for name, value in own(found).items():
        low, high = found.intervals[name]
        assert 0 <= low <= value <= high <= 1
    assert found.n[MCS] == 3
    assert not consistency(runs[:2], 0).intervals


def test_runs_that_cannot_be_compared_are_an_error():
    with pytest.raises(ValueError, match="at least 2 runs, got 1"):
        consistency([make_run(torch.eye(3))], 0)
    with pytest.raises(ValueError, match="one d_in"):
        consistency([make_run(torch.eye(3)), make_run(torch.eye(4), "b")], 0)


def test_z_scores_equal_numpy_and_biases_drop_out(generator):
    x, W = torch.randn(50, 4, generator=generator), torch.randn(6, 4, generator=generator)
    u = (x @ W.mT + torch.randn(6, generator=generator)).double().numpy()
    expected = (u.max(0) - u.mean(0)) / u.std(0)
    np.testing.assert_allclose(z_scores(x, W).numpy(), expected, rtol=1e-4)
    assert z_scores(torch.ones(5, 4), torch.zeros(2, 4)).tolist() == [0, 0]


def test_a_run_describes_what_its_sae_does(generator):
    sae = make_sae(d_in=5, d_sae=9, gate="topk", k=2, scaled=True, normalise="token")
    assert sae.W_dec is not None and sae.output_scale is not None
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(9, 5, generator=generator))
        sae.W_dec.copy_(torch.randn(9, 5, generator=generator))
        sae.output_scale.copy_(torch.tensor([-2.0, *torch.linspace(0.5, 1, 8)]))
        sae.W_enc[3] = 0
        sae.b_enc[3] = -100.0
    x = torch.randn(70, 5, generator=generator)
    run = describe(sae, x, "a")
    with torch.no_grad():
        z = sae(x).codes.to_dense()
    written = sae.decoder().detach()
    torch.testing.assert_close(run.directions, written)
    assert run.live.tolist() == (z > 0).any(0).tolist()
    assert not run.live[3]
    torch.testing.assert_close(run.peak, (z[:, :, None] * written).norm(dim=2).amax(0))
    torch.testing.assert_close(run.z, z_scores(normalize(x, dim=1), sae.W_enc.detach()))
    torch.testing.assert_close(run.rate, (z > 0).float().mean(0))
    norms = [row[row > 0].mean() * w.norm() for row, w in zip(z.mT, written, strict=True)]
    torch.testing.assert_close(run.mean, torch.stack(norms).nan_to_num(0.0))


def test_the_task_compares_saes_on_rows_that_are_no_outliers():
    x = torch.eye(4)
    x[0] *= 1000
    sae = make_sae(d_in=4, d_sae=4, gate="relu")
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(4))
        sae.b_enc.fill_(-100.0)
    found = Consistency(others=[1]).compare([sae, sae], Fixed(x), 0)
    assert "fires" in found.skipped[MCS], "only the outlier would have opened a latent"


class Fixed(Source):
    """Given rows, the first of them an outlier."""

    name = "fixed"

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @property
    def d_in(self) -> int:
        return self.x.shape[1]

    def stream(self, batch_size: int, seed: int, device: torch.device) -> Any:
        raise NotImplementedError

    def held_out(self, n: int, seed: int) -> HeldOut:
        return HeldOut(self.x, None, torch.arange(len(self.x)) == 0)

    def identity(self) -> dict[str, Any]:
        return {}

    def provenance(self) -> dict[str, Any]:
        return {}
