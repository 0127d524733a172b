"""Recovery, detection and reconstruction: chance, perfection, invariance, and numbers by hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from gradsae.interfaces import HeldOut, KnownSource, Metric, Scores, Skipped, Source, Trainer
from gradsae.metrics import common, recovery
from gradsae.metrics.absorption import Absorption
from gradsae.metrics.activation import ActivationMCC
from gradsae.metrics.common import control_name, ratio_interval
from gradsae.metrics.coverage import DECADES, Coverage
from gradsae.metrics.detection import Detection, count_hits, score_hits, slice_rows
from gradsae.metrics.latents import Latents
from gradsae.metrics.lm_loss import LMLoss
from gradsae.metrics.reconstruction import Reconstruction, density
from gradsae.metrics.recovery import Recovery, rate_errors, score_cosines, score_mcc
from gradsae.metrics.shrinkage import Shrinkage
from gradsae.metrics.splitting import Splitting
from gradsae.optim import Optim
from gradsae.records.shapes import COLUMN_NAME, SCORE_NAME, SKIPPED_NAME
from gradsae.sae import model as saes
from gradsae.sae.codes import Codes, DenseCodes, SparseCodes, from_dense
from gradsae.sae.model import SAE
from gradsae.seeds import make_generator
from gradsae.suitability.metric import Suitability
from gradsae.trainers.gba import GBA
from gradsae.trainers.l1 import L1
from gradsae.trainers.topk import TopK

CONF = Path(__file__).parents[1] / "conf"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class World(KnownSource):
    """x = h V with Bernoulli support and coefficients in [1, 2]."""

    name: ClassVar[str] = "world"

    V: Tensor
    rate: float = 0.15
    with_truth: bool = True
    outliers: Tensor | None = None

    @property
    def d_in(self) -> int:
        return self.V.shape[1]

    def stream(self, batch_size: int, seed: int, device: torch.device) -> Any:
        raise NotImplementedError

    def held_out(self, n: int, seed: int) -> HeldOut:
        generator = make_generator(seed, "eval")
        shape = (n, len(self.V))
        h = 1 + torch.rand(shape, generator=generator)
        h *= torch.rand(shape, generator=generator) < self.rate
        truth = from_dense(h) if self.with_truth else None
        return HeldOut(h @ self.V, truth, self.outliers)

    def features(self) -> Tensor:
        return self.V

    def rates(self) -> Tensor:
        return torch.full((len(self.V),), self.rate)

    def identity(self) -> dict[str, Any]:
        return {}

    def provenance(self) -> dict[str, Any]:
        return {}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Rows(Source):
    """A source of given rows, about whose features nothing is known."""

    name: ClassVar[str] = "rows"

    x: Tensor
    outliers: Tensor | None = None

    @property
    def d_in(self) -> int:
        return self.x.shape[1]

    def stream(self, batch_size: int, seed: int, device: torch.device) -> Any:
        raise NotImplementedError

    def held_out(self, n: int, seed: int) -> HeldOut:
        return HeldOut(self.x[:n], None, None if self.outliers is None else self.outliers[:n])

    def identity(self) -> dict[str, Any]:
        return {}

    def provenance(self) -> dict[str, Any]:
        return {}


def orthonormal(n: int, d_in: int) -> Tensor:
    drawn = torch.randn(d_in, d_in, generator=make_generator(0, "world"))
    return torch.linalg.qr(drawn).Q[:n].contiguous()


def make_sae(W_enc: Tensor, W_dec: Tensor, b_enc: Tensor | float = 0.0, **arch: Any) -> SAE:
    d_sae, d_in = W_enc.shape
    sae = saes.make_sae(d_in=d_in, d_sae=d_sae, gate=arch.pop("gate", "jump"), **arch)
    assert sae.W_dec is not None
    with torch.no_grad():
        sae.W_enc.copy_(W_enc)
        sae.W_dec.copy_(W_dec)
        sae.b_enc.copy_(torch.as_tensor(b_enc).expand(d_sae))
    return sae


def true_sae(V: Tensor) -> SAE:
    """Opens a latent where its coefficient (at least 1, features orthonormal) is above a half."""
    return make_sae(V, V, -0.5)


def measure(metric: Metric, sae: SAE, source: Source, seed: int = 0) -> Scores:
    found = metric.measure(sae, source, seed)
    assert isinstance(found, Scores), found
    return found


def own(scores: Scores) -> dict[str, float]:
    """Return the scores without their controls."""
    return {k: v for k, v in scores.scores.items() if not k.endswith(("chance", "shuffled"))}


METRICS = [Recovery(n_rows=500), Detection(n_rows=500), Reconstruction(n_rows=500)]
KNOWN = METRICS[:2]
DEEPER = [
    ActivationMCC(n_rows=500),
    Coverage(n_rows=500, edges=[0, 0.1, 1]),
    Latents(n_rows=500),
    Splitting(),
    Shrinkage(n_rows=500),
    Absorption(n_rows=500),
]
PERFECT = {
    "recovery/rate_error": 0,
    "recovery/rate_error/absolute": 0,
}


@pytest.mark.parametrize("metric", KNOWN, ids=repr)
def test_the_true_dictionary_is_perfect(metric):
    V = orthonormal(6, 8)
    for name, value in own(measure(metric, true_sae(V), World(V=V))).items():
        assert value == pytest.approx(PERFECT.get(name, 1), abs=1e-6), name


@pytest.mark.parametrize("metric", KNOWN, ids=repr)
def test_order_of_latents_and_of_features_and_size_of_rows_change_nothing(metric, generator):
    V = torch.nn.functional.normalize(torch.randn(9, 5, generator=generator), dim=1)
    W, b = torch.randn(14, 5, generator=generator), -torch.rand(14, generator=generator)
    before = own(measure(metric, make_sae(W, W, b), World(V=V)))
    assert 0 < before.get("recovery/frr_0.8", before.get("detection/f1", 0)) < 1
    order = torch.randperm(14, generator=generator)
    scale = torch.rand(14, 1, generator=generator) + 0.1
    moved = make_sae(W[order], scale * W[order], b[order])
    features = torch.randperm(9, generator=generator)
    held = World(V=V).held_out(500, 0)
    assert held.truth is not None
    truth = from_dense(held.truth.to_dense()[:, features])

    class Permuted(Frozen):
        rows = HeldOut(held.x, truth)

    after = own(measure(metric, moved, Permuted(V[features])))
    assert after == pytest.approx(before, abs=1e-6)


class Frozen(KnownSource):
    """A known source with fixed held-out rows."""

    name = "frozen"
    rows: HeldOut

    def __init__(self, V: Tensor) -> None:
        self.V = V

    @property
    def d_in(self) -> int:
        return self.V.shape[1]

    def stream(self, batch_size: int, seed: int, device: torch.device) -> Any:
        raise NotImplementedError

    def held_out(self, n: int, seed: int) -> HeldOut:
        return self.rows

    def features(self) -> Tensor:
        return self.V

    def rates(self) -> Tensor:
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        return {}

    def provenance(self) -> dict[str, Any]:
        return {}


def test_negated_features_are_not_matched():
    V = orthonormal(6, 8)
    sae = make_sae(V, -V, -0.5)
    found = measure(Recovery(n_rows=500), sae, World(V=V)).scores
    for name in ("frr_0.8", "frr_0.9", "frr_0.95", "frr_area", "precision_0.9"):
        assert found[f"recovery/{name}"] == pytest.approx(0, abs=1e-6)
    assert found["recovery/mcc"] == pytest.approx(0, abs=1e-6)  # each with another's axis
    assert found["recovery/mcc/matched"] == pytest.approx(1)  # what peers report
    assert measure(Detection(n_rows=500), sae, World(V=V)).scores["detection/f1"] < 0.5


OPTIM = Optim(lr=1e-3)
UNTRAINED: dict[str, Trainer] = {
    "topk": TopK(d_sae=40, k=8, optim=OPTIM),
    "l1": L1(d_sae=40, l1=5.0, optim=OPTIM),
    "gba": GBA(d_sae=40, optim=OPTIM),
    "gba_untied": GBA(d_sae=40, optim=OPTIM, tied=False, scale_init=0.05, activation="relu"),
}


@pytest.mark.parametrize("trainer", UNTRAINED.values(), ids=UNTRAINED)
def test_an_untrained_sae_scores_at_chance_on_every_recovery_metric(trainer):
    """Six dimensions, so that chance is well above zero and there is something to compare."""
    gaps: dict[str, list[float]] = {}
    levels: dict[str, list[float]] = {}
    n_worlds = 12
    for seed in range(n_worlds):
        generator = make_generator(seed, "world")
        V = torch.nn.functional.normalize(torch.randn(24, 6, generator=generator), dim=1)
        world = World(V=V, rate=0.06)
        sae = trainer.build(world.held_out(1000, seed + 1000).x, make_generator(seed, "init"))
        for metric in (Recovery(n_rows=1000), Detection(n_rows=1000)):
            found = measure(metric, sae, world, seed)
            for name, value in own(found).items():
                levels.setdefault(name, []).append(found.scores[control_name(name)])
                gaps.setdefault(name, []).append(value - levels[name][-1])
    assert len(gaps) == 12
    assert np.mean(levels["recovery/frr_0.8"]) > 0.3
    for name, gap in gaps.items():
        error = np.std(gap, ddof=1) / n_worlds**0.5
        assert abs(np.mean(gap)) < 4 * error + 1e-3, (name, np.mean(gap), error)


def test_features_and_weights_of_one_draw_would_score_a_perfect_recovery():
    """Why every draw names its purpose (gradsae/seeds.py)."""
    trainer, sample = TopK(d_sae=24, k=8, optim=OPTIM), torch.randn(100, 6)
    V = torch.nn.functional.normalize(
        torch.randn(24, 6, generator=make_generator(0, "init")), dim=1
    )
    sae = trainer.build(sample, make_generator(0, "init"))
    assert measure(Recovery(), sae, World(V=V)).scores["recovery/frr_0.95"] == 1


def test_the_control_keeps_norms_and_biases_and_shares_directions(generator):
    W_enc, W_dec = (torch.randn(7, 5, generator=generator) for _ in range(2))
    sae = make_sae(W_enc, W_dec, torch.randn(7, generator=generator))
    control = sae.chance(generator)
    assert control.W_dec is not None
    torch.testing.assert_close(control.W_enc.norm(dim=1), W_enc.norm(dim=1))
    torch.testing.assert_close(control.W_dec.norm(dim=1), W_dec.norm(dim=1))
    cosine = torch.nn.functional.cosine_similarity(control.W_enc, control.W_dec)
    torch.testing.assert_close(cosine, torch.ones(7))
    assert torch.equal(control.b_enc, sae.b_enc)
    assert torch.equal(sae.W_enc, W_enc), "the SAE itself was changed"


def test_recovery_by_hand():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    latents = torch.tensor([[3.0, 0.0], [0.5, 0.75**0.5], [-1.0, 0.0]])
    p = torch.tensor([0.1, 0.2, 0.0])
    found = score_cosines(latents, p, features)
    height = 0.75**0.5  # 0.866
    assert found.scores == pytest.approx(
        {
            "recovery/frr_0.8": 1,
            "recovery/frr_0.9": 0.5,
            "recovery/frr_0.95": 0.5,
            "recovery/frr_area": (1 + height) / 2,
            "recovery/precision_0.9": 0.5,  # of the two latents that fire
        }
    )
    assert found.n["recovery/precision_0.9"] == 2
    curve = found.series["recovery/frr_curve"]
    assert len(curve["tau"]) == 41
    assert curve["tau"][0] == 0 and curve["tau"][-1] == 1
    # The step at 0.866 lies between tau = 0.850 and 0.875; nothing exceeds 1.
    assert curve["frr"] == [1.0] * 35 + [0.5] * 5 + [0.0]


def test_mcc_counts_features_without_a_latent_and_its_matched_variant_does_not():
    features = torch.eye(4)
    found = score_mcc(torch.tensor([[2.0, 0, 0, 0], [0, -1.0, 0, 0]]), features)
    assert found.scores["recovery/mcc"] == pytest.approx(1 / 4)
    assert found.scores["recovery/mcc/matched"] == pytest.approx(1)
    assert found.n == {"recovery/mcc": 4, "recovery/mcc/matched": 2}


def test_area_under_frr_equals_its_numerical_integral(generator):
    best = 2 * torch.rand(50, generator=generator, dtype=torch.float64) - 1
    taus = np.linspace(0, 1, 20_001)
    integral = np.trapezoid([(best.numpy() > tau).mean() for tau in taus], taus)
    assert recovery.frr_area(best.float()) == pytest.approx(integral, abs=1e-4)


def test_rate_errors_by_hand():
    p, f = torch.tensor([0.5, 0.1, 0.0, 0.3]), torch.tensor([0.25, 0.2, 0.4, 0.3])
    relative, absolute = rate_errors(p, f)
    torch.testing.assert_close(relative, torch.tensor([0.5, 0.5, 1.0, 0.0]))
    torch.testing.assert_close(absolute, torch.tensor([0.25, 0.1, 0.4, 0.0]))


def test_rate_error_measures_the_latent_that_was_matched():
    """The latent of feature 0 is twice on: on feature 0 and on feature 1; feature 2 has none."""
    V = torch.eye(3)
    W_dec = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    W_enc = torch.tensor([[1.0, 1.0, 0], [0, 1.0, 0]])
    rows = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 0]])

    class Four(Frozen):
        rows = HeldOut(torch.zeros(0, 3))

    Four.rows = HeldOut(rows, from_dense(rows))
    found = measure(Recovery(), make_sae(W_enc, W_dec, -0.5), Four(V)).scores
    # p = 2/4, 1/4, none; f = 1/4 each.
    assert found["recovery/rate_error"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert found["recovery/rate_error/absolute"] == pytest.approx((0.25 + 0 + 0.25) / 3)
    found = measure(Detection(), make_sae(W_enc, W_dec, -0.5), Four(V)).scores
    assert found["detection/precision"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["detection/recall"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["detection/f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_an_sae_that_never_fires_has_no_precision_and_detects_nothing():
    V = orthonormal(6, 8)
    sae = make_sae(V, V, -100.0)
    found = measure(Recovery(n_rows=500), sae, World(V=V))
    assert "fires" in found.skipped["recovery/precision_0.9"]
    assert found.scores["recovery/frr_0.9"] == 1  # directions are there, dead or alive
    assert found.scores["recovery/rate_error"] == 1
    assert measure(Detection(n_rows=500), sae, World(V=V)).scores["detection/f1"] == 0


def test_features_that_never_occur_do_not_count_in_detection():
    V = orthonormal(6, 8)
    held = World(V=V).held_out(300, 0)
    assert held.truth is not None
    h = held.truth.to_dense()
    h[:, :2] = 0

    class FourOfSix(Frozen):
        rows = HeldOut(h @ V, from_dense(h))

    found = measure(Detection(), true_sae(V), FourOfSix(V))
    assert found.scores["detection/f1"] == 1
    assert found.n["detection/f1"] == 4
    assert measure(Recovery(), true_sae(V), FourOfSix(V)).n["recovery/rate_error"] == 4


def random_codes(generator: torch.Generator, batch: int, d_sae: int, density: float) -> Tensor:
    dense = torch.randn(batch, d_sae, generator=generator)
    return dense * (torch.rand(batch, d_sae, generator=generator) < density)


@pytest.mark.parametrize("kind", [from_dense, lambda dense: DenseCodes(values=dense)])
def test_hits_equal_the_dense_count(kind, generator):
    z, h = random_codes(generator, 40, 9, 0.5), random_codes(generator, 40, 6, 0.3)
    feature_of = torch.tensor([3, -1, 0, 5, -1, -1, 1, -1, 2])
    codes: Codes = kind(z)
    expected = [
        int(((h[:, i] > 0) & (z[:, feature_of.tolist().index(i)] > 0)).sum())
        if i in feature_of
        else 0
        for i in range(6)
    ]
    assert count_hits(codes, from_dense(h), feature_of).tolist() == expected
    nothing = from_dense(torch.zeros(40, 6))
    assert count_hits(codes, nothing, feature_of).tolist() == [0] * 6


def test_row_slices_of_codes_equal_slices_of_the_matrix(generator):
    dense = random_codes(generator, 10, 4, 0.4)
    part = slice_rows(from_dense(dense), 3, 8)
    assert torch.equal(part.to_dense(), dense[3:8])


def test_f1_equals_the_harmonic_mean(generator):
    hits, fired, active = (torch.tensor(v) for v in ([3, 0, 5], [4, 0, 9], [6, 7, 5]))
    found = score_hits(hits, fired, active).scores
    precision, recall = np.array([3 / 4, 0, 5 / 9]), np.array([3 / 6, 0, 5 / 5])
    harmonic = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert found["detection/f1"] == pytest.approx(harmonic.mean())
    assert found["detection/precision"] == pytest.approx(precision.mean())
    assert found["detection/recall"] == pytest.approx(recall.mean())


def test_many_passes_give_the_same_scores_as_one(monkeypatch, generator):
    V = torch.nn.functional.normalize(torch.randn(9, 5, generator=generator), dim=1)
    sae = make_sae(torch.randn(14, 5, generator=generator), torch.randn(14, 5), -0.3)
    metrics = [*METRICS, *DEEPER[:-1]]
    whole = [measure(metric, sae, World(V=V)) for metric in metrics]
    monkeypatch.setattr(common, "PASS_ENTRIES", 14 * 7)
    parts = [measure(metric, sae, World(V=V)) for metric in metrics]
    for one, other in zip(whole, parts, strict=True):
        assert other.scores == pytest.approx(one.scores)
        assert other.n == one.n


def test_fvu_cosine_and_sparsity_equal_numpy(generator):
    x = torch.randn(60, 5, generator=generator) + 3
    x[7] = 0
    outlier = torch.zeros(60, dtype=torch.bool)
    outlier[:4] = True
    x[:4] *= 50
    sae = make_sae(
        torch.randn(14, 5, generator=generator), torch.randn(14, 5, generator=generator), -5.0
    )
    found = measure(Reconstruction(), sae, Rows(x=x, outliers=outlier))
    with torch.no_grad():
        out = sae(x)
    recon, z = out.recon.double().numpy(), out.codes.to_dense().numpy()
    rows, kept = x.double().numpy(), ~outlier.numpy()

    def fvu(x: np.ndarray, y: np.ndarray) -> float:
        return ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()

    usual, nonzero = kept, kept & (np.linalg.norm(rows, axis=1) > 0)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(recon, axis=1)
    cosine = (rows * recon).sum(1)[nonzero] / norms[nonzero]
    rate = (z[usual] > 0).mean(0)
    assert found.scores == pytest.approx(
        {
            "reconstruction/fvu": fvu(rows[usual], recon[usual]),
            "reconstruction/fvu/with_outliers": fvu(rows, recon),
            "reconstruction/cosine": cosine.mean(),
            "sparsity/l0": (z[usual] > 0).sum(1).mean(),
            "sparsity/dead": (rate == 0).mean(),
            "sparsity/dense_share": (rate > 0.1).mean(),
        },
        rel=1e-5,
    )
    assert found.n["reconstruction/fvu"] == found.n["sparsity/dead"] == 56
    assert found.n["reconstruction/fvu/with_outliers"] == 60
    assert found.n["reconstruction/cosine"] == 55
    for name, (low, high) in found.intervals.items():
        assert low < found.scores[name] < high
    assert found.n["sparsity/never_fired"] == (rate == 0).sum() > 0
    assert sum(found.series["sparsity/density"]["count"]) == (rate > 0).sum()


def test_rebuilding_the_mean_leaves_all_variance_and_rebuilding_the_row_none(generator):
    x = torch.randn(50, 4, generator=generator) + 2
    blank = make_sae(torch.zeros(3, 4), torch.zeros(3, 4), -1.0)
    with torch.no_grad():
        blank.b_dec.copy_(x.mean(0))
    assert measure(Reconstruction(), blank, Rows(x=x)).scores[
        "reconstruction/fvu"
    ] == pytest.approx(1)
    both = torch.cat([torch.eye(4), -torch.eye(4)])
    found = measure(Reconstruction(), make_sae(both, both, gate="relu"), Rows(x=x))
    assert found.scores["reconstruction/fvu"] == 0
    assert found.scores["sparsity/l0"] == 4
    assert found.intervals["reconstruction/fvu"] == (0, 0)


def test_what_reconstruction_cannot_tell_is_skipped_with_its_reason():
    sae = make_sae(torch.eye(3), torch.eye(3), -0.5)
    found = measure(Reconstruction(), sae, Rows(x=torch.ones(5, 3)))
    assert "flags no outliers" in found.skipped["reconstruction/fvu/with_outliers"]
    assert "do not vary" in found.skipped["reconstruction/fvu"]
    found = measure(Reconstruction(), sae, Rows(x=torch.zeros(5, 3)))
    assert "zero" in found.skipped["reconstruction/cosine"]
    everything = Rows(x=torch.ones(5, 3), outliers=torch.ones(5, dtype=torch.bool))
    assert isinstance(Reconstruction().measure(sae, everything, 0), Skipped)


def test_density_bins_by_hand():
    found = density(torch.tensor([0, 0, 1000, 100, 99, 10, 1, 316, 317]), 1000)
    edges, counts = found["log10_rate"], found["count"]
    assert edges[0] == -6 and edges[-1] == -0.25
    table = {edge: count for edge, count in zip(edges, counts, strict=True) if count}
    # log10: 0 (last bin), -1, -1.004, -2, -3, -0.5003, -0.4989
    expected = {-0.25: 1, -1.0: 1, -1.25: 1, -2.0: 1, -3.0: 1, -0.75: 1, -0.5: 1}
    assert table == expected


@pytest.mark.parametrize("n", [400, 40_000])
def test_the_interval_of_a_ratio_is_as_wide_as_its_standard_error(n, generator):
    below = 1 + torch.rand(n, generator=generator, dtype=torch.float64)
    above = below * torch.rand(n, generator=generator, dtype=torch.float64)
    ratio = (above.sum() / below.sum()).item()
    half = 1.96 * ((above - ratio * below).std() / below.mean()).item() / n**0.5  # delta method
    assert ratio_interval(above, below, 0) == pytest.approx(
        (ratio - half, ratio + half), abs=0.2 * half
    )


def test_an_interval_needs_two_units_and_a_finite_ratio():
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    assert ratio_interval(one, one, 0) is None
    assert ratio_interval(zero + 1, zero, 0) is None


@pytest.mark.parametrize("metric", [*METRICS, *DEEPER, LMLoss()], ids=repr)
def test_names_fit_the_record_and_the_same_seed_gives_the_same_scores(metric):
    V = orthonormal(6, 8)
    runs = [metric.measure(true_sae(V), World(V=V), 3) for _ in range(2)]
    assert runs[0] == runs[1]
    if isinstance(runs[0], Skipped):
        return
    found = runs[0]
    assert all(SCORE_NAME.fullmatch(name) for name in [*found.scores, *found.series])
    assert all(SKIPPED_NAME.fullmatch(name) for name in [*found.skipped, *found.n])
    assert set(found.intervals) <= set(found.scores) <= set(found.n)
    assert not set(found.skipped) & set(found.scores)
    for columns in found.series.values():
        assert all(COLUMN_NAME.fullmatch(name) for name in columns)
        assert len({len(values) for values in columns.values()}) == 1


@pytest.mark.parametrize("metric", [*KNOWN, *DEEPER, LMLoss()], ids=repr)
def test_a_metric_that_does_not_apply_says_so(metric):
    sae = make_sae(torch.eye(3), torch.eye(3))
    found = metric.measure(sae, Rows(x=torch.ones(5, 3)), 0)
    assert isinstance(found, Skipped)
    assert "rows" in found.reason


def test_without_true_codes_directions_are_still_scored():
    V = orthonormal(6, 8)
    source = World(V=V, with_truth=False)
    found = measure(Recovery(), true_sae(V), source)
    assert found.scores["recovery/frr_0.9"] == 1
    assert "true codes" in found.skipped["recovery/rate_error"]
    assert isinstance(Detection().measure(true_sae(V), source, 0), Skipped)


@pytest.mark.parametrize("component", [Recovery, Detection])
def test_scores_without_the_table_of_all_cosines_are_those_with_it(component, generator):
    V = torch.nn.functional.normalize(torch.randn(30, 12, generator=generator), dim=1)
    near = V[torch.randperm(30, generator=generator)] + 0.2 * torch.randn(30, 12)
    whole, pruned = (
        measure(component(**limit), true_sae(near), World(V=V)) for limit in ({}, {"max_pairs": 1})
    )
    assert whole.scores == pytest.approx(pruned.scores, abs=1e-6)
    assert whole.skipped == pruned.skipped


@pytest.mark.parametrize("component", [Recovery, Detection, Reconstruction, LMLoss])
@pytest.mark.parametrize("value", [0, -1, True])
def test_a_bad_field_is_named_with_its_value(component, value):
    field = "n_windows" if component is LMLoss else "n_rows"
    with pytest.raises(ValueError, match=rf"{field} must be a whole number from 1, got {value}"):
        component(**{field: value})


def test_every_metric_config_composes_into_a_list_and_builds():
    names = {path.stem for path in (CONF / "metric").glob("*.yaml")} - {"ground_truth"}
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose(overrides=[f"+metric=[{','.join(names)}]"])
    built = {name: instantiate(cfg.metric[name], _convert_="object") for name in cfg.metric}
    defaults = [Detection(), LMLoss(), Reconstruction(), Recovery(), ActivationMCC(), Latents()]
    defaults += [Splitting(), Shrinkage(), Absorption(), Coverage(edges=list(DECADES))]
    defaults += [Suitability()]
    assert set(built) == names
    assert sorted(built.values(), key=repr) == sorted(defaults, key=repr)


def test_the_ground_truth_preset_asks_everything_that_known_features_answer():
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("config", overrides=["metric=[ground_truth]"])
    assert set(cfg.metric) == {"reconstruction"} | {
        type(metric).__module__.rpartition(".")[2] for metric in [*KNOWN, *DEEPER]
    }


def test_sparse_truth_needs_no_order_within_rows():
    truth = SparseCodes(
        values=torch.ones(3),
        latents=torch.tensor([2, 0, 1]),
        offsets=torch.tensor([0, 2, 3]),
        d_sae=3,
    )
    codes = DenseCodes(values=torch.ones(2, 3))
    assert count_hits(codes, truth, torch.arange(3)).tolist() == [1, 1, 1]
