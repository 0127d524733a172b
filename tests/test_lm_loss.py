"""Splicing: the identity loses exactly nothing, zeros everything, and the sums are the model's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gradsae.interfaces import HeldOut, ModelSource, Scores
from gradsae.lm.model import LM, load
from gradsae.lm.sites import Site
from gradsae.lm.spec import LanguageModel
from gradsae.metrics.lm_loss import LMLoss, Window, run_window, score_windows, splice
from gradsae.records.shapes import SCORE_NAME, SKIPPED_NAME
from gradsae.sae.model import SAE, make_sae

TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def lm() -> LM:
    return load(LanguageModel(name="tiny", source="random", licence="none", config=TINY))


@pytest.fixture(params=["resid_post.1", "mlp_out.0", "attn_out.2"])
def site(request: pytest.FixtureRequest) -> Site:
    kind, layer = request.param.split(".")
    return Site(kind=kind, layer=int(layer))


@pytest.fixture
def windows(lm: LM, generator: torch.Generator) -> list[Tensor]:
    """Texts that the random model predicts well, having written them; of several lengths."""
    starts = torch.randint(0, 200, (4, 1, 2), generator=generator)
    return [lm.generate(start, 8 + i)[0] for i, start in enumerate(starts)]


def only_first(token_ids: Tensor, acts: Tensor) -> Tensor:
    dropped = torch.zeros_like(token_ids, dtype=torch.bool)
    dropped[:, 0] = True
    return dropped


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Read(ModelSource):
    """Activations of a site on given windows, position 0 dropped."""

    name: ClassVar[str] = "read"

    model: LM
    where: Site
    texts: Sequence[Tensor]

    @property
    def d_in(self) -> int:
        return self.model.d_model

    def stream(self, batch_size: int, seed: int, device: torch.device) -> Any:
        raise NotImplementedError

    def held_out(self, n: int, seed: int) -> HeldOut:
        acts = [self.model.read(self.where, ids[None])[0, 1:] for ids in self.texts]
        x = torch.cat(acts)[:n]
        outlier = torch.zeros(len(x), dtype=torch.bool)
        outlier[0] = True
        return HeldOut(x, None, outlier)

    def identity(self) -> dict[str, Any]:
        return {}

    def provenance(self) -> dict[str, Any]:
        return {}

    def names(self) -> dict[str, dict[str, str]]:
        return {}

    def activations_id(self) -> str:
        return ""

    def lm(self) -> LM:
        return self.model

    def site(self) -> Site:
        return self.where

    def eval_windows(self, n: int, seed: int) -> Sequence[Tensor]:
        return self.texts[:n]

    def dropped(self, token_ids: Tensor, acts: Tensor) -> Tensor:
        assert acts.shape == (*token_ids.shape, self.d_in)
        return only_first(token_ids, acts)


def identity_sae(d_in: int) -> SAE:
    """x = relu(x) - relu(-x), bit by bit."""
    sae = make_sae(d_in=d_in, d_sae=2 * d_in, gate="relu", pre_bias=False)
    both = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
    assert sae.W_dec is not None
    with torch.no_grad():
        sae.W_enc.copy_(both)
        sae.W_dec.copy_(both)
    return sae


def measure(metric: LMLoss, sae: SAE, source: ModelSource) -> Scores:
    found = metric.measure(sae, source, 0)
    assert isinstance(found, Scores)
    return found


def test_an_identity_sae_recovers_exactly_everything(lm, site, windows):
    source = Read(model=lm, where=site, texts=windows)
    found = measure(LMLoss(n_windows=4), identity_sae(lm.d_model), source)
    assert found.scores["lm/ce_recovered"] == 1
    assert found.scores["lm/ce_recovered/mean"] == 1
    assert found.scores["lm/ce_delta"] == 0
    assert found.scores["lm/kl"] == 0
    assert found.scores["lm/ce_spliced"] == found.scores["lm/ce_clean"]
    assert found.intervals["lm/ce_recovered"] == (1, 1)


def test_an_sae_that_puts_out_zeros_recovers_exactly_nothing(lm, site, windows):
    silent = make_sae(d_in=lm.d_model, d_sae=4, gate="relu")
    found = measure(LMLoss(), silent, Read(model=lm, where=site, texts=windows))
    assert found.scores["lm/ce_recovered"] == 0
    assert found.scores["lm/ce_spliced"] == found.scores["lm/ce_zero"]
    assert found.scores["lm/kl"] > 0


def test_an_sae_that_puts_out_the_mean_is_the_mean_ablation(lm, site, windows):
    source = Read(model=lm, where=site, texts=windows)
    x, _, outlier = source.held_out(4096, 0)
    assert outlier is not None
    constant = make_sae(d_in=lm.d_model, d_sae=4, gate="relu", pre_bias=False)
    with torch.no_grad():
        constant.b_dec.copy_(x[~outlier].mean(0))
    found = measure(LMLoss(), constant, source).scores
    assert found["lm/ce_mean"] == pytest.approx(found["lm/ce_spliced"], rel=1e-6)


def test_cross_entropies_equal_those_of_transformers(lm, site, windows):
    ids = windows[0][None]
    found = run_window(lm, site, ids, only_first, torch.zeros_like, torch.zeros(lm.d_model))
    own = lm.model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    assert found.clean == pytest.approx(own, rel=1e-5)
    assert found.n_tokens == ids.shape[1] - 1
    assert found.n_dropped == 1


def test_kl_equals_that_of_torch_and_ablation_that_of_an_edit_by_hand(lm, windows):
    site, ids = Site("resid_post", 1), windows[1][None]

    def double(acts: Tensor) -> Tensor:
        return 2 * acts

    def by_hand(acts: Tensor) -> Tensor:
        return torch.cat([acts[:, :1], 2 * acts[:, 1:]], dim=1)

    found = run_window(lm, site, ids, only_first, double, torch.zeros(lm.d_model))
    with torch.no_grad():
        clean, spliced = lm.logits(ids), lm.logits(ids, edit=(site, by_hand))
    log_p, log_q = (logits[0, :-1].double().log_softmax(-1) for logits in (clean, spliced))
    kl = F.kl_div(log_q, log_p, log_target=True, reduction="sum").item()
    assert found.kl == pytest.approx(kl, rel=1e-4)
    loss = F.cross_entropy(spliced[0, :-1], ids[0, 1:], reduction="sum").item()
    assert found.spliced == pytest.approx(loss, rel=1e-5)


def test_dropped_positions_keep_every_bit(generator):
    acts = torch.randn(1, 5, 3, generator=generator)
    kept = torch.tensor([[False, True, False, True, True]])
    edited = splice(acts, kept, torch.zeros_like)
    assert torch.equal(edited[~kept], acts[~kept])
    assert not edited[kept].any()
    assert torch.equal(splice(acts, torch.zeros_like(kept), torch.zeros_like), acts)


def test_a_bfloat16_model_gets_its_own_dtype_back(windows):
    spec = LanguageModel(
        name="tiny", source="random", licence="none", dtype="bfloat16", config=TINY
    )
    source = Read(model=load(spec), where=Site("resid_post", 1), texts=windows)
    assert measure(LMLoss(), identity_sae(16), source).scores["lm/kl"] == 0


def test_scores_by_hand_and_forward_passes_counted():
    windows = [
        Window(clean=10, spliced=12, zero=30, mean=20, kl=1, n_tokens=10, n_dropped=1),
        Window(clean=20, spliced=24, zero=40, mean=30, kl=2, n_tokens=20, n_dropped=2),
    ]
    found = score_windows(windows, 0)
    assert found.scores == pytest.approx(
        {
            "lm/ce_clean": 1,
            "lm/ce_spliced": 36 / 30,
            "lm/ce_zero": 70 / 30,
            "lm/ce_mean": 50 / 30,
            "lm/ce_delta": 6 / 30,
            "lm/kl": 0.1,
            "lm/ce_recovered": 1 - 6 / 40,
            "lm/ce_recovered/mean": 1 - 6 / 20,
        }
    )
    # Resamples are both windows, or one of them twice.
    assert found.intervals["lm/ce_recovered"] == pytest.approx((1 - 4 / 20, 1 - 2 / 20))
    assert found.forward_equivalents == 8
    assert found.n["lm/windows"] == 2
    assert found.n["lm/dropped"] == 3
    assert found.n["lm/kl"] == 30
    assert all(SCORE_NAME.fullmatch(name) for name in found.scores)
    assert all(SKIPPED_NAME.fullmatch(name) for name in found.n)


def test_an_ablation_that_costs_nothing_skips_what_is_measured_against_it():
    window = Window(clean=10, spliced=12, zero=9, mean=30, kl=1, n_tokens=10, n_dropped=1)
    found = score_windows([window], 0)
    assert "does not raise" in found.skipped["lm/ce_recovered"]
    assert found.scores["lm/ce_recovered/mean"] == pytest.approx(0.9)
    assert not found.intervals, "one window says nothing about others"


def test_windows_without_a_token_to_predict_are_left_out(lm, windows):
    source = Read(model=lm, where=Site("resid_post", 1), texts=[windows[0], windows[1][:1]])
    assert measure(LMLoss(), identity_sae(lm.d_model), source).n["lm/windows"] == 1


def test_ablations_of_a_window_are_run_once_and_again_for_another_mean(lm, windows, monkeypatch):
    calls = []
    logits = LM.logits
    monkeypatch.setattr(LM, "logits", lambda *a, **k: calls.append(1) or logits(*a, **k))
    site, ids, mean = Site("resid_post", 1), windows[2][None], torch.linspace(-1, 1, lm.d_model)

    def run(mean: Tensor) -> Window:
        calls.clear()
        return run_window(lm, site, ids, only_first, torch.zeros_like, mean)

    first, n_first = run(mean), len(calls)
    again, n_again = run(mean), len(calls)
    other, n_other = run(-mean), len(calls)
    assert (n_first, n_again, n_other) == (4, 2, 4)
    assert again == first
    assert other.mean != first.mean
    assert other.zero == first.zero == first.spliced
