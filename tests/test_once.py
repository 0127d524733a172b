"""Sharing rows and codes between metrics changes no number, and ends where it should."""

import pytest
import torch
from torch.nn.functional import normalize

from gradsae.errors import UserError
from gradsae.interfaces import Scores
from gradsae.metrics import common, once
from gradsae.metrics.activation import ActivationMCC
from gradsae.metrics.coverage import Coverage
from gradsae.metrics.detection import Detection
from gradsae.metrics.latents import Latents
from gradsae.metrics.reconstruction import Reconstruction
from gradsae.metrics.recovery import Recovery
from gradsae.metrics.shrinkage import Shrinkage
from gradsae.sae.model import SAE, make_sae
from gradsae.sources.superposition import Superposition

SOURCE = Superposition(n_features=40, width=24, l0=3)
KINDS = (Recovery, Detection, Reconstruction, ActivationMCC, Coverage, Latents, Shrinkage)
METRICS = [kind(n_rows=700) for kind in KINDS]


def some_sae() -> SAE:
    generator = torch.Generator().manual_seed(0)
    sae = make_sae(d_in=24, d_sae=30, gate="relu", tied=True)
    with torch.no_grad():
        sae.W_enc.copy_(normalize(torch.randn(30, 24, generator=generator), dim=1))
        sae.b_enc.fill_(-0.2)
    return sae


def count_calls(monkeypatch, owner, name: str) -> list[int]:
    calls, real = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: (calls.append(1), real(*args))[1])
    return calls


@pytest.mark.parametrize("limit", [common.STORED_VALUES, 2000, 0], ids=["all", "some", "nothing"])
def test_every_metric_gives_the_same_numbers_when_they_share(limit, monkeypatch):
    monkeypatch.setattr(common, "PASS_ENTRIES", 30 * 100)  # seven passes over the rows
    monkeypatch.setattr(common, "STORED_VALUES", limit)
    sae = some_sae()
    alone = [metric.measure(sae, SOURCE, 0) for metric in METRICS]
    with once.sharing():
        together = [metric.measure(sae, SOURCE, 0) for metric in METRICS]
    for one, other in zip(alone, together, strict=True):
        assert isinstance(one, Scores) and one == other


def test_rows_controls_and_codes_are_made_once(monkeypatch):
    drawn = count_calls(monkeypatch, Superposition, "held_out")
    controls = count_calls(monkeypatch, SAE, "chance")
    encoded = count_calls(monkeypatch, SAE, "encode_in")
    sae = some_sae()
    with once.sharing():
        for metric in METRICS:
            metric.measure(sae, SOURCE, 0)
    assert (len(drawn), len(controls)) == (1, 1)
    assert len(encoded) == 3  # the SAE, its control, and the forward pass of Reconstruction
    METRICS[0].measure(sae, SOURCE, 0)
    assert (len(drawn), len(controls)) == (2, 2)


def test_another_seed_or_number_of_rows_gets_rows_of_its_own():
    with once.sharing():
        first = common.held_out(SOURCE, 10, 0)
        assert common.held_out(SOURCE, 10, 0) is first
        assert not torch.equal(common.held_out(SOURCE, 10, 1).x, first.x)
        assert len(common.held_out(SOURCE, 11, 0).x) == 11
    assert common.held_out(SOURCE, 10, 0) is not first


def test_activations_of_another_width_are_refused_by_name():
    source = Superposition(n_features=40, width=20, l0=3)
    with pytest.raises(UserError, match="width d_in=24, these have 20: it was trained on another"):
        Recovery(n_rows=10).measure(some_sae(), source, 0)
    with pytest.raises(UserError, match="width d_in=24, these have 20"):
        Reconstruction(n_rows=10).measure(some_sae(), source, 0)
