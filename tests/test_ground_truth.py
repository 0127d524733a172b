"""Metrics that read true codes and the hierarchy: by hand, by numpy and scipy, by sae-lens."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from gradsae.interfaces import HeldOut, Hierarchy, KnownSource, Metric, Scores, Skipped
from gradsae.metrics import joint as joint_module
from gradsae.metrics.absorption import Absorption, count_contexts
from gradsae.metrics.activation import ActivationMCC, matched_correlations
from gradsae.metrics.coverage import Coverage
from gradsae.metrics.joint import Joint, best_f1, join, partner_values
from gradsae.metrics.latents import Latents
from gradsae.metrics.reconstruction import Reconstruction
from gradsae.metrics.recovery import Recovery
from gradsae.metrics.shrinkage import Shrinkage
from gradsae.metrics.splitting import Splitting, near, score_splitting
from gradsae.metrics.truth import Truth
from gradsae.sae import model as saes
from gradsae.sae.codes import from_dense
from gradsae.sae.model import SAE
from gradsae.sources.forest import Forest

ROWS = 40


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Given(KnownSource):
    """x = h V with the coefficients that a test gives, and its rates and edges."""

    name: ClassVar[str] = "given"

    V: Tensor
    h: Tensor
    rate: Tensor
    tree: Tensor

    @property
    def d_in(self) -> int:
        return self.V.shape[1]

    def stream(self, batch_size: int, seed: int, device: torch.device) -> Any:
        raise NotImplementedError

    def held_out(self, n: int, seed: int) -> HeldOut:
        return HeldOut(self.h[:n] @ self.V, from_dense(self.h[:n]))

    def features(self) -> Tensor:
        return self.V

    def rates(self) -> Tensor:
        return self.rate

    def edges(self) -> Tensor:
        return self.tree

    def identity(self) -> dict[str, Any]:
        return {}

    def provenance(self) -> dict[str, Any]:
        return {}


def given(
    V: Tensor, h: Tensor, rates: Tensor | None = None, edges: list[list[int]] | None = None
) -> Given:
    rate = (h > 0).float().mean(0) if rates is None else rates
    return Given(V=V, h=h, rate=rate, tree=torch.tensor(edges or [], dtype=torch.int64).view(-1, 2))


def make_sae(W_enc: Tensor, W_dec: Tensor, b_enc: Tensor | float = 0.0, **arch: Any) -> SAE:
    shape = {"d_in": W_enc.shape[1], "d_sae": len(W_enc), "gate": "relu"}
    sae = saes.make_sae(**{**shape, **arch})
    assert sae.W_dec is not None
    with torch.no_grad():
        sae.W_enc.copy_(W_enc)
        sae.W_dec.copy_(W_dec)
        sae.b_enc.copy_(torch.as_tensor(b_enc).expand(len(W_enc)))
    return sae


def measure(metric: Metric, sae: SAE, source: KnownSource) -> Scores:
    found = metric.measure(sae, source, 0)
    assert isinstance(found, Scores), found
    return found


def some_codes(generator: torch.Generator, n: int, width: int, density: float = 0.3) -> Tensor:
    shape = (n, width)
    size = 0.5 + torch.rand(shape, generator=generator)
    return size * (torch.rand(shape, generator=generator) < density)


def pair(z: Tensor, h: Tensor) -> Joint:
    return Joint(from_dense(z), from_dense(h), torch.ones(len(z)))


# Activation-level MCC


@pytest.mark.parametrize("filled", [0.0, 1.0])
@pytest.mark.parametrize("entries", [2**24, 1])
@pytest.mark.parametrize("sizes", [(9, 6), (6, 9), (7, 7)])
def test_correlations_and_their_matching_equal_numpy_and_scipy(
    sizes, entries, filled, generator, monkeypatch
):
    monkeypatch.setattr(joint_module, "FILLED", filled)
    monkeypatch.setattr(joint_module, "ENTRIES", entries)  # 1: a row of the table at a time
    h, z = (some_codes(generator, ROWS, n) for n in sizes)
    z[:, :3] += 0.5 * h[:, 1:4]
    z[:, 4], h[:, 5] = 0, 0  # a dead latent and a feature that never occurs
    kept = [part.double().numpy()[:, part.numpy().any(0)] for part in (h, z)]
    n = kept[0].shape[1]
    table = np.corrcoef(*kept, rowvar=False)[:n, n:]
    best = table.clip(0)[linear_sum_assignment(table.clip(0), maximize=True)].sum()
    assert best > 1 and (table < 0).any()
    worth, n_features, n_latents = matched_correlations(pair(z, h))
    assert (n_features, n_latents) == (sizes[0] - 1, sizes[1] - 1)
    assert worth.sum() == pytest.approx(best, abs=1e-5)
    assert worth.min() >= 0


def test_latents_that_follow_the_coefficients_score_one_and_a_missing_one_costs_its_share(
    generator,
):
    h, V = some_codes(generator, ROWS, 5), torch.eye(5)
    metric, sae = ActivationMCC(), make_sae(3 * V, V)
    found = measure(metric, sae, given(V, h)).scores
    assert found["activation/mcc"] == pytest.approx(1, abs=1e-5)
    fewer = measure(metric, make_sae(3 * V[:4], V[:4]), given(V, h))
    assert fewer.scores["activation/mcc"] == pytest.approx(4 / 5, abs=1e-5)
    assert fewer.scores["activation/mcc/matched"] == pytest.approx(1, abs=1e-5)
    assert (fewer.n["activation/mcc"], fewer.n["activation/mcc/matched"]) == (5, 4)
    silent = measure(metric, make_sae(V, V, -100.0), given(V, h))
    assert silent.scores["activation/mcc"] == 0
    assert "no latent varies" in silent.skipped["activation/mcc/matched"]


def test_turned_decoder_rows_change_the_cosine_mcc_and_not_the_activation_mcc(generator):
    h, V = some_codes(generator, ROWS, 5), torch.eye(5)
    turned = make_sae(V, V.roll(1, dims=0))
    found = measure(ActivationMCC(), turned, given(V, h)).scores
    assert found["activation/mcc"] == pytest.approx(1, abs=1e-5)
    assert found["activation/mcc/chance"] < 0.95


# Codes beside the truth


@pytest.mark.parametrize("codes", ["sparse", "open"])
def test_the_best_f1_of_each_feature_equals_a_count_over_all_latents(codes, generator, monkeypatch):
    monkeypatch.setattr(joint_module, "FILLED", 0.6)
    monkeypatch.setattr(joint_module, "ENTRIES", 12)
    h, z = some_codes(generator, ROWS, 6), some_codes(generator, ROWS, 5)
    if codes == "open":
        z = some_codes(generator, ROWS, 5, density=1.0)
    z[:, 2], h[:, 1] = h[:, 4], 0
    H, Z = h.numpy() > 0, z.numpy() > 0
    hits = (H[:, :, None] & Z[:, None, :]).sum(0)
    expected = (2 * hits / (H.sum(0)[:, None] + Z.sum(0)[None])).max(1)
    np.testing.assert_allclose(best_f1(pair(z, h)).numpy(), expected, rtol=1e-6)
    assert expected[4] == 1 and expected[1] == 0


def test_partner_values_equal_an_indexed_matrix(generator):
    h, z = some_codes(generator, ROWS, 6), some_codes(generator, ROWS, 5)
    latent_of = torch.tensor([3, -1, 0, 4, -1, 1])
    both = pair(z, h)
    expected = torch.where(latent_of >= 0, z[:, latent_of.clamp_min(0)], 0.0)
    rows, features = both.truth.rows, both.truth.latents
    assert torch.equal(partner_values(both, latent_of), expected[rows, features])
    assert partner_values(pair(torch.zeros_like(z), h), latent_of).sum() == 0


def test_rows_that_do_not_fit_are_left_out_of_codes_and_truth(generator, monkeypatch):
    monkeypatch.setattr("gradsae.metrics.common.PASS_ENTRIES", 5 * 8)  # 8 rows a pass
    h, V = some_codes(generator, ROWS, 5, density=1.0), torch.eye(5)
    sae, truth = make_sae(V, V), Truth(h @ V, from_dense(h), V)
    for limit, n_rows in ((2**20, ROWS), (5 * 20, 16), (1, 8)):
        part = join(sae, truth, limit)
        assert part.codes.n_rows == part.truth.n_rows == len(part.scale) == n_rows
        torch.testing.assert_close(part.codes.to_dense(), h[:n_rows])
        assert torch.equal(part.truth.to_dense(), h[:n_rows])


# Coverage


def test_coverage_by_hand(generator):
    """Latents for features 0, 1 and 3 of five; that of 1 fires with 0 instead. 4 never occurs."""
    h, V = some_codes(generator, ROWS, 5), torch.eye(5)
    h[:, 4] = 0
    rates = torch.tensor([0.5, 0.4, 0.05, 0.1, 1.0])
    sae = make_sae(V[[0, 0, 3]], V[[0, 1, 3]])
    source = given(V, h, rates)
    found = measure(Coverage(edges=[0, 0.01, 0.1, 1]), sae, source)
    expected = {
        "coverage/cosine": 3 / 5,
        "coverage/cosine/0.01-0.1": 0,  # feature 2 alone, which has no latent
        "coverage/cosine/0.1-1": 3 / 4,  # the edge 0.1 belongs here, and 1 too
        "coverage/f1": 2 / 4,
        "coverage/f1/0.01-0.1": 0,
        "coverage/f1/0.1-1": 2 / 3,
    }
    assert {name: found.scores[name] for name in expected} == pytest.approx(expected)
    assert found.n["coverage/f1"] == 4 and found.n["coverage/cosine/0.1-1"] == 4
    p = (h > 0).double().mean(0)
    mistaken = (p[0] - p[1]).abs() / max(p[0], p[1])
    assert found.scores["coverage/rate_error/0.1-1"] == pytest.approx(mistaken.item() / 3, abs=1e-6)
    assert found.scores["coverage/rate_error/0.01-0.1"] == 1
    for kind in ("cosine", "f1", "rate_error"):
        reason = found.skipped[f"coverage/{kind}/0-0.01"]
        assert reason == "no feature has a rate in this band; rates run from 0.05 to 1"


def test_the_mean_rate_error_is_that_of_recovery(generator):
    V = normalize(torch.randn(9, 5, generator=generator), dim=1)
    W = torch.randn(7, 5, generator=generator)
    source, sae = given(V, some_codes(generator, ROWS, 9)), make_sae(W, W, -0.3)
    found = measure(Coverage(), sae, source).scores["coverage/rate_error"]
    expected = measure(Recovery(), sae, source).scores["recovery/rate_error"]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("edges", [[], [0.1], [0.1, 0.1], [0.5, 0.1]])
def test_bands_that_hold_nothing_are_refused(edges):
    with pytest.raises(ValueError, match="edges must be two or more rising rates, got"):
        Coverage(edges=edges)


@pytest.mark.parametrize("edge", [-0.1, 1.5, True])
def test_an_edge_that_is_no_rate_is_refused(edge):
    with pytest.raises(ValueError, match=f"edges is a share between 0 and 1, got {edge!r}"):
        Coverage(edges=[0, edge])


@pytest.mark.parametrize(
    ("component", "field"),
    [
        (Coverage, "cosine"),
        (Coverage, "f1"),
        (Absorption, "cosine"),
        (Shrinkage, "cosine"),
        (Splitting, "split"),
        (Splitting, "duplicate"),
    ],
)
def test_a_level_that_is_no_share_is_named(component, field):
    with pytest.raises(ValueError, match=f"{field} is a share between 0 and 1, got 1.1"):
        component(**{field: 1.1})


# Absorption

EDGES = [[0, 1], [0, 2], [3, 4], [1, 5]]


def tree_codes(generator: torch.Generator, n: int) -> Tensor:
    """Codes of six features in which a child is active only where its parent is."""
    h = some_codes(generator, n, 6, density=0.6)
    for parent, child in EDGES:
        h[:, child] *= h[:, parent] > 0
    return h


def test_contexts_of_edges_equal_a_count_row_by_row(generator):
    h, fires = tree_codes(generator, ROWS), torch.rand(ROWS, 6, generator=generator) < 0.5
    truth = from_dense(h)
    found = count_contexts(truth, fires[truth.rows, truth.latents], torch.tensor(EDGES))
    children = {p: [c for q, c in EDGES if q == p] for p, _ in EDGES}
    for e, (p, c) in enumerate(EDGES):
        on, child = h[:, p] > 0, h[:, c] > 0
        alone = on & ~(h[:, children[p]] > 0).any(1)
        for context, rows in zip(found, (on & child, on & ~child, alone), strict=True):
            assert context.rows[e] == rows.sum()
            assert context.hits[e] == (rows & fires[:, p]).sum()


def test_a_parent_that_its_children_silence_has_a_gap_of_one_and_a_faithful_one_of_zero(generator):
    h, V = tree_codes(generator, 400), torch.eye(6)
    source = given(V, h, edges=EDGES)
    faithful = measure(Absorption(), make_sae(V, V), source)
    assert faithful.scores["absorption/gap"] == faithful.scores["absorption/gap/childless"] == 0
    assert faithful.intervals["absorption/gap"] == (0, 0)
    assert faithful.n["absorption/gap"] == 4
    absorbing = V.clone()
    absorbing[3, 4] = -100  # the latent of feature 3 is silent where 4 is active
    found = measure(Absorption(), make_sae(absorbing, V), source)
    assert found.scores["absorption/gap"] == pytest.approx(1 / 4)
    low, high = found.intervals["absorption/gap"]
    assert low == 0 and 1 / 4 < high <= 1


def test_siblings_that_absorb_together_show_against_childless_rows():
    """Parent 0 with exclusive children 1 and 2, one of which is nearly always active."""
    h = torch.zeros(220, 3)
    h[:, 0] = 1
    h[:100, 1], h[100:200, 2] = 1, 1
    V = torch.eye(3)
    W = V.clone()
    W[0, 1:] = -100
    found = measure(Absorption(), make_sae(W, V), given(V, h, edges=[[0, 1], [0, 2]])).scores
    assert found["absorption/gap"] == pytest.approx(20 / 120)
    assert found["absorption/gap/childless"] == 1


def test_edges_without_a_latent_or_without_rows_are_not_judged(generator):
    h, V = tree_codes(generator, 400), torch.eye(6)
    source = given(V, h, edges=EDGES)
    found = measure(Absorption(), make_sae(V[1:], V[1:]), source)
    assert found.scores["absorption/judged"] == 2 / 4
    assert found.n["absorption/gap"] == 2
    rare = measure(Absorption(min_rows=401), make_sae(V, V), source)
    assert "too few rows (4 edges, 4 of them with a latent)" in rare.skipped["absorption/gap"]
    none = measure(Absorption(), make_sae(V[2:3], V[2:3]), source)
    assert "no parent has a latent near it" in none.skipped["absorption/gap"]


def test_without_a_hierarchy_absorption_is_skipped_with_the_reason(generator):
    flat = given(torch.eye(4), some_codes(generator, ROWS, 4))
    skipped = Absorption().measure(make_sae(torch.eye(4), torch.eye(4)), flat, 0)
    assert isinstance(skipped, Skipped)
    assert skipped.reason == "no feature of this given has a parent"


FOREST = Forest(
    n_features=60, width=24, n_roots=4, branching=3, depth=2, orthogonal_steps=0, seed=3
)


def test_a_child_of_the_forest_is_active_only_where_its_parent_is():
    assert isinstance(FOREST, Hierarchy)
    edges, truth = FOREST.edges(), FOREST.held_out(2000, 0).truth
    assert truth is not None
    on = truth.to_dense() > 0
    assert edges.shape == (4 * (3 + 9), 2)  # every node of a tree but its root has one parent
    assert len(set(edges[:, 1].tolist())) == len(edges)
    assert on[:, edges[:, 1]].sum() > 1000
    assert not (on[:, edges[:, 1]] & ~on[:, edges[:, 0]]).any()


# Shrinkage


def expected_shrinkage(h: Tensor, threshold: float) -> float:
    """A ReLU with bias -threshold writes h - threshold; mean over features of sums' ratio."""
    coefficients = h.double().numpy()
    on = coefficients > threshold
    written = np.where(on, coefficients - threshold, 0).sum(0)
    return (written / np.where(on, coefficients, 0).sum(0)).mean()


def test_shrinkage_of_a_relu_with_a_bias_equals_numpy(generator):
    h, V = some_codes(generator, ROWS, 6), torch.eye(6)
    found = measure(Shrinkage(), make_sae(V, V, -0.6), given(V, h))
    assert found.scores["shrinkage/ratio"] == pytest.approx(expected_shrinkage(h, 0.6), rel=1e-5)
    assert found.n["shrinkage/ratio"] == 6
    low, high = found.intervals["shrinkage/ratio"]
    assert low < found.scores["shrinkage/ratio"] < high


def test_shrinkage_is_in_raw_units_and_counts_the_decoder_and_its_scale(generator):
    h, V = some_codes(generator, ROWS, 6), torch.eye(6)
    sae = make_sae(V, 3 * V, -0.3, normalise="sqrt_d", scaled=True)
    assert sae.output_scale is not None
    with torch.no_grad():
        sae.scale.fill_(2.0)  # threshold 0.6 in raw units
        sae.output_scale.fill_(0.5)
    found = measure(Shrinkage(), sae, given(V, h)).scores["shrinkage/ratio"]
    assert found == pytest.approx(3 * 0.5 * expected_shrinkage(h, 0.6), rel=1e-5)


def test_a_latent_at_an_angle_writes_its_projection_and_a_far_one_is_left_out(generator):
    h, V = some_codes(generator, ROWS, 4), torch.eye(4)
    h[:, 3] = 0
    W_dec = V.clone()
    W_dec[0, [0, 3]] = torch.tensor([0.8, 0.6])
    W_dec[1, [1, 3]] = torch.tensor([0.6, 0.8])
    found = measure(Shrinkage(), make_sae(V[:3], W_dec[:3]), given(V, h))
    assert found.scores["shrinkage/ratio"] == pytest.approx((0.8 + 1) / 2)
    assert found.n["shrinkage/ratio"] == 2
    silent = measure(Shrinkage(), make_sae(V, V, -9.0), given(V, h))
    assert "no latent at a cosine above 0.7" in silent.skipped["shrinkage/ratio"]


# Splitting and duplication


def test_splitting_and_duplicates_by_hand():
    e = torch.eye(4)
    latents = torch.stack([e[0], 2 * (0.8 * e[0] + 0.6 * e[3]), e[1], 5 * e[1], -e[2], 0 * e[0]])
    found = score_splitting(latents, e, split=0.7, duplicate=0.9)
    assert found.scores["splitting/split"] == 2 / 4  # features 0 and 1
    assert found.scores["splitting/duplicate"] == 2 / 6  # both latents of feature 1
    # Nearest, without sign: 0, 0, 1, 1, 2; the empty latent's is the first, 0.
    assert found.scores["splitting/uniqueness"] == 3 / 6
    assert found.n["splitting/split_features"] == found.n["splitting/duplicate_latents"] == 2


@pytest.mark.parametrize("block", [1, 4, 4096])
def test_neighbours_equal_numpy_at_any_block_size(block, generator):
    a, b = (torch.randn(n, 4, generator=generator) for n in (10, 7))
    table = (normalize(a, dim=1) @ normalize(b, dim=1).mT).numpy()
    found = near(a, b, 0.3, block=block)
    assert found.n_above.tolist() == (table > 0.3).sum(1).tolist()
    assert found.nearest.tolist() == np.abs(table).argmax(0).tolist()


# Against sae-lens


@pytest.fixture(scope="module", params=[40, 90], ids=["fewer latents", "more latents"])
def beside_sae_lens(request):
    """An SAE of the forest: noisy features, one of them reversed, some latents dead."""
    evals = pytest.importorskip("sae_lens.synthetic.evals")
    V, d_sae = FOREST.features(), request.param
    generator = torch.Generator().manual_seed(0)
    W = V.repeat(2, 1)[:d_sae] + 0.15 * torch.randn(d_sae, 24, generator=generator)
    bias = torch.full((d_sae,), -1.0)
    bias[::9] = -1000
    sae = make_sae(W, W, bias)
    with torch.no_grad():
        sae.b_dec.copy_(FOREST.world().bias)
        assert sae.W_dec is not None
        sae.W_dec[1] *= -1
        out = sae(FOREST.held_out(3000, 0).x)
    return evals, sae, out


def scores(metric: Metric, sae: SAE) -> dict[str, float]:
    return measure(metric, sae, FOREST).scores


def test_mcc_and_uniqueness_equal_those_of_sae_lens(beside_sae_lens):
    evals, sae, _ = beside_sae_lens
    W, V = sae.W_dec.detach(), FOREST.features()
    found = scores(Recovery(n_rows=3000), sae) | scores(Splitting(), sae)
    theirs = evals.mean_correlation_coefficient(W, V)
    assert found["recovery/mcc/matched"] == pytest.approx(theirs, abs=1e-6)
    assert found["splitting/uniqueness"] == pytest.approx(evals.feature_uniqueness(W, V), abs=1e-6)
    assert found["recovery/mcc"] < theirs  # ours counts the sign and all features


def test_f1_precision_and_recall_of_latents_equal_those_of_sae_lens(beside_sae_lens):
    evals, sae, out = beside_sae_lens
    truth = FOREST.held_out(3000, 0).truth
    assert truth is not None
    theirs = evals.compute_classification_metrics(
        out.codes.to_dense(), truth.to_dense(), sae.W_dec.detach(), FOREST.features()
    )
    found = scores(Latents(n_rows=3000), sae)
    assert 0.05 < theirs.f1_score < 0.95
    assert found["latents/f1"] == pytest.approx(theirs.f1_score, abs=1e-6)
    assert found["latents/precision"] == pytest.approx(theirs.precision, abs=1e-6)
    assert found["latents/recall"] == pytest.approx(theirs.recall, abs=1e-6)


def test_fvu_is_one_minus_the_explained_variance_of_sae_lens(beside_sae_lens):
    _, sae, out = beside_sae_lens
    theirs = pytest.importorskip("sae_lens.evals").ExplainedVarianceCalculator()
    x = FOREST.held_out(3000, 0).x
    for start in range(0, 3000, 700):
        theirs.add_batch(out.recon[start : start + 700], x[start : start + 700])
    found = scores(Reconstruction(n_rows=3000), sae)["reconstruction/fvu"]
    assert 1 - found == pytest.approx(theirs.compute(), abs=1e-6)
