"""Suitability: the theorem's bounds, verdicts, invariances, reference families, the command."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from suitability_worlds import truth, world
from torch.nn.functional import normalize

from benchmarks import suitability
from benchmarks.launch import command as launch
from gradsae.interfaces import Scores, Skipped
from gradsae.sae.codes import from_dense
from gradsae.sae.model import make_sae
from gradsae.sources.superposition import Superposition
from gradsae.stats.ica import fast_ica
from gradsae.suitability import conditions, proposal, quantities, references, study, theorem
from gradsae.suitability.evidence import Evidence, merged
from gradsae.suitability.metric import Suitability
from gradsae.suitability.theorem import Estimate, exactly


def rotation(d: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.linalg.qr(torch.randn(d, d, generator=generator)).Q


# The theorem.


def test_the_band_is_the_one_of_the_formula():
    n, s, d = 1024, 4, 320
    found = theorem.band(n, s, d)
    assert found.low == 1 / 1024
    assert found.high == pytest.approx(2.0**-6.25)  # (2^10)^(-(1 + 1/4) / 2)
    assert found.binds == "co-firing"
    assert theorem.band(n, 3, d).high == pytest.approx(1024 ** (-2 * 1.1025 / 3))
    assert theorem.band(n, 4, 4).high == pytest.approx(4**0.9 / 1024)


def test_the_width_of_the_theorem_without_slack_agrees_with_the_table(monkeypatch):
    monkeypatch.setattr(theorem, "EPSILON", 0.0)
    found = theorem.band(1024, 3, 64)
    assert found.high == pytest.approx(9.8e-3, rel=0.01)
    assert theorem.log_width(1024, found.high, 3) == pytest.approx(9.0, abs=0.1)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (Estimate(0.1, 0.05, 0.2), "met"),
        (Estimate(0.1, 0.05, 0.5), "doubtful"),
        (Estimate(2.0, 0.9, 3.0), "doubtful"),
        (Estimate(2.0, 1.1, 3.0), "not met"),
    ],
)
def test_a_verdict_needs_the_whole_interval(ratio, verdict):
    assert theorem.much_less(ratio) == verdict


def test_within_a_constant_is_a_half_order_of_magnitude_once_or_twice():
    ratios = (1.0, 3.3, 4.0, 11.0, 12.0)
    verdicts = [theorem.within_constant(exactly(ratio)) for ratio in ratios]
    assert verdicts == ["met", "met", "doubtful", "doubtful", "not met"]


# Invariances.


def verdicts_of(x: torch.Tensor, evidence: Evidence) -> list[tuple[str, str, str]]:
    found = conditions.findings(evidence, quantities.raw(x), 256)
    return [(one.name, one.estimate, one.verdict) for one in found]


def test_scale_and_rotation_of_the_activations_change_nothing():
    x, evidence = truth(world(coefficients="uniform", low=0.5))
    turn = rotation(48)
    turned = Evidence(
        family=evidence.family,
        directions=evidence.directions @ turn,
        codes=evidence.codes.with_values(7 * evidence.codes.values),
        rates=evidence.rates,
    )
    assert verdicts_of(7 * x @ turn, turned) == verdicts_of(x, evidence)


def test_the_order_of_the_features_changes_nothing(generator):
    x, evidence = truth(world(support="bernoulli", exponent=0.5))
    order = torch.randperm(64, generator=generator)
    dense = evidence.codes.to_dense()[:, order]
    assert evidence.rates is not None
    moved = Evidence(
        family=evidence.family,
        directions=evidence.directions[order],
        codes=from_dense(dense),
        rates=evidence.rates[order],
    )
    # Equally good pairs may swap, so the co-occurrence is compared on another test's terms.
    mine, other = verdicts_of(x, evidence), verdicts_of(x, moved)
    assert [one for one in mine if one[0] != "co-occurrence"] == [
        one for one in other if one[0] != "co-occurrence"
    ]


# Reference families.


def test_near_duplicates_are_merged_and_unused_atoms_dropped():
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.99, 0.05], [-1.0, 0.0]])
    dense = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 4.0, 0.0], [0.0, 0.0, 5.0, 0.0]])
    found = merged(Evidence(family="x", directions=directions, codes=from_dense(dense)))
    assert torch.equal(found.directions, directions[[2, 1]])
    assert found.codes.to_dense().tolist() == [[3.0, 0.0], [4.0, 3.0], [5.0, 0.0]]


def test_ica_finds_sparse_sources_up_to_order_and_scale():
    source = world(n_features=16, width=16, l0=2, support="bernoulli", directions="orthogonal")
    x = source.held_out(8192, 0).x
    found = fast_ica(x, torch.Generator().manual_seed(0), most=64)
    assert found.converged
    cosine = normalize(found.mixing, dim=1) @ source.features().double().mT
    assert cosine.abs().amax(0).min() > 0.95
    sources = (x.double() - found.centre) @ found.unmixing.mT
    torch.testing.assert_close(sources.T.cov(), torch.eye(16).double(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sources @ found.mixing, x.double() - x.double().mean(0))


def test_ica_of_leading_dimensions_leaves_out_the_others_and_says_when_it_did_not_settle(
    monkeypatch,
):
    draws = torch.Generator().manual_seed(0)
    loud = torch.empty(4000, 3).exponential_(generator=draws) @ torch.eye(3, 8)
    x = loud + 1e-9 * torch.randn(4000, 8, generator=draws)  # five dimensions of rounding
    assert len(fast_ica(x, torch.Generator().manual_seed(0)).mixing) == 3
    assert len(fast_ica(x, torch.Generator().manual_seed(0), most=2).mixing) == 2
    monkeypatch.setattr("gradsae.stats.ica.MAX_STEPS", 1)
    assert not fast_ica(x, torch.Generator().manual_seed(0)).converged


def test_without_superposition_ica_counts_the_true_sparsity():
    source = world(n_features=16, width=16, l0=2, support="bernoulli", directions="orthogonal")
    drawn = source.held_out(8192, 0)
    assert drawn.truth is not None
    found = quantities.support(references.ica(drawn.x, 0).codes).mean
    assert found == pytest.approx(quantities.support(drawn.truth).mean, rel=0.1)


def test_true_codes_are_drawn_until_there_are_enough():
    source = world()
    drawn = source.held_out(100_000, 0)
    found = references.known(source, drawn, 0)
    assert found is not None
    assert references.MORE_ROWS <= found.codes.n_rows < references.MORE_ROWS + 100_000
    first = found.codes.latents[: 3 * 100_000]
    assert drawn.truth is not None
    assert torch.equal(first, drawn.truth.latents)
    later = found.codes.latents[3 * 100_000 : 6 * 100_000]
    assert not torch.equal(later, first)


def test_families_that_disagree_are_doubtful():
    def one(verdict):
        return conditions.Finding("rates", f"{verdict} 1", "constant", verdict, "why")

    (row,) = conditions.combined({"a": [one("met")], "b": [one("not met")]})
    assert row.verdict == "doubtful"
    assert row.estimate == "a: met 1; b: not met 1"
    assert "disagree" in row.why


def test_the_width_does_not_decide():
    x, evidence = truth(world())
    rows = conditions.combined({"t": conditions.findings(evidence, quantities.raw(x), 8)})
    assert rows[-1].verdict == "not met"
    others: list[theorem.Verdict] = [row.verdict for row in rows[:-1]]
    assert conditions.overall(rows) == theorem.worst(others)


def test_a_family_at_its_ceilings_is_doubtful_on_sparsity_and_on_dimension():
    x, evidence = truth(world())
    raw = quantities.raw(x)
    at = replace(evidence, ceiling=3, n_ceiling=64)
    below = replace(evidence, ceiling=6, n_ceiling=128)
    for one, verdict in ((evidence, "met"), (below, "met"), (at, "doubtful")):
        assert conditions.sparsity(one).verdict == verdict
        assert conditions.dimension(one, raw).verdict == verdict


# The proposal.


@pytest.mark.parametrize(
    "fields", [{}, {"l0": 1}, {"l0": 40}, {"support": "bernoulli", "exponent": 1.0}]
)
def test_every_proposal_is_a_configuration_that_gba_takes(fields):
    x, evidence = truth(world(**fields))
    raw = quantities.raw(x)
    found = conditions.numbers(evidence, raw)
    low, high, _ = proposal.targets(found)
    assert 0 < low <= high <= 1
    words = dict(one.override.split("=") for one in proposal.proposal(found, raw))
    assert words["trainer"] == "gba"
    groups = int(words["trainer.groups"])
    assert groups >= 10
    assert (high / low) ** (1 / (groups - 1)) <= 2.0 + 1e-9
    d_sae = int(words["d_sae"])
    assert 4 * 64 <= d_sae < 2 * 4 * 64
    assert d_sae & (d_sae - 1) == 0


# The command.


def command(monkeypatch, results: Path, *words: str) -> int:
    monkeypatch.setattr(
        sys, "argv", ["suitability", *words, "tracking=none", "device=cpu", f"results={results}"]
    )
    monkeypatch.setattr(suitability, "failed", [])
    GlobalHydra.instance().clear()
    try:
        return launch.command(suitability.main)
    except SystemExit as stop:
        return int(stop.code or 0)


SMALL = ("source=superposition", "source.n_features=32", "source.width=16")


def test_the_command_prints_a_verdict_and_overrides_and_exits_0(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(references, "MORE_ROWS", 1)
    monkeypatch.setattr(study, "MAX_ROWS", 4096)
    assert command(monkeypatch, tmp_path, *SMALL, "source.l0=20") == 0
    said = capsys.readouterr().out
    assert "overall: not met" in said
    assert "below 0.3, not met above 1; constant: met up to 3.33, not met above 11.1" in said
    assert "trainer=gba trainer.htf=" in said.splitlines()[-1]
    assert "source.l0=20" in said.splitlines()[-1]


def test_its_help_is_its_own(monkeypatch, tmp_path, capsys):
    assert command(monkeypatch, tmp_path, "--help") == 0
    assert capsys.readouterr().out.startswith("Stage one")


def test_unknown_features_are_looked_at_through_two_families(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(references, "known", lambda *_: None)
    monkeypatch.setattr(study, "MAX_ROWS", 4096)
    words = ("d_sae=64", "k=4", "source.l0=2", "fit.steps=100", "fit.batch_size=64")
    assert command(monkeypatch, tmp_path, *SMALL, *words) == 0
    said, heard = capsys.readouterr()
    assert "second: independent components of 4096 rows of 16" in heard
    assert "topk, " in said
    assert "ica, " in said
    assert said.count("circular: ") >= 2
    assert "  by ica: " in said
    assert "Seen through references" in said
    assert "fit.steps" not in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("source.l0=99",), "l0 must be a whole number"),
        (("k=0",), "k (with d_sae=256)"),
        (("-m",), "without -m"),
    ],
)
def test_bad_input_gives_one_message(monkeypatch, tmp_path, capsys, words, message):
    exact = ("source.support=exact",) if words[0].startswith("source") else ()
    assert command(monkeypatch, tmp_path, *SMALL, *exact, *words) == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_too_few_rows_are_refused(monkeypatch, tmp_path, capsys):
    whole = Superposition.held_out
    monkeypatch.setattr(Superposition, "held_out", lambda self, n, seed: whole(self, 60, seed))
    assert command(monkeypatch, tmp_path, *SMALL) == 1
    assert "60 held-out rows, but the estimates need 100" in capsys.readouterr().err


# The metric.


def test_the_true_dictionary_sees_what_the_truth_has():
    source = world(n_features=32, directions="orthogonal", coefficients="uniform", low=1, high=2)
    sae = make_sae(d_in=48, d_sae=40, gate="jump", tied=True)
    with torch.no_grad():
        sae.W_enc[:32].copy_(source.features())
        sae.b_enc.copy_(torch.tensor([-0.5] * 32 + [-9.0] * 8))
    found = Suitability(n_rows=4096).measure(sae, source, 0)
    assert isinstance(found, Scores)
    seen = {name: one for name, one in found.scores.items() if not name.endswith("/truth")}
    # Rates of the truth are those of its law; those of the latents are counted.
    exact = {"suitability/rate_ratio", "suitability/coherence", "suitability/band_low"}
    assert len(seen) == 10
    # Its pair is picked among equals, so only the law's value is in both intervals.
    law = 2 / 31 * 32**0.5
    for name in ("suitability/co_occurrence", "suitability/co_occurrence/truth"):
        low, high = found.intervals[name]
        assert low < law < high
    for name in seen.keys() - exact - {"suitability/co_occurrence"}:
        assert seen[name] == pytest.approx(found.scores[f"{name}/truth"], rel=1e-3), name
    assert found.scores["suitability/rate_ratio/truth"] == 1.0
    assert found.scores["suitability/coherence"] < 1e-5
    assert found.scores["suitability/s_p99"] == 3.0


def test_an_sae_that_never_fires_is_skipped():
    sae = make_sae(d_in=48, d_sae=40, gate="jump", tied=True)
    found = Suitability(n_rows=200).measure(sae, world(), 0)
    assert isinstance(found, Skipped)
    assert "0 latents" in found.reason
