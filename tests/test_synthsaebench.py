"""The page and the command of SynthSAEBench: their terms, the two worlds, and no number of its own.

`test_saelens_eval.py` compares the terms with sae-lens itself.
"""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import example_records as example
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from scipy import stats
from test_recovery_table import rows_of, settings_of

from benchmarks.leaderboard.board import make_tables
from benchmarks.synthsaebench import __main__ as command
from benchmarks.synthsaebench import lens
from benchmarks.synthsaebench.page import over_all, request, theirs
from benchmarks.synthsaebench.published import PUBLISHED
from benchmarks.synthsaebench.terms import in_their_terms
from benchmarks.synthsaebench.world import version_of
from gradsae.errors import UserError
from gradsae.records.record import Record, save
from gradsae.sae.directions import random_directions
from gradsae.sae.kernels.gates.topk import TopKGate
from gradsae.sae.model import SAE, Architecture
from gradsae.seeds import make_generator
from gradsae.sources import saelens_world
from gradsae.sources.forest import Forest
from gradsae.sources.saved_world import SavedWorld
from gradsae.trainers.common import start_from

CONF = Path(__file__).parent.parent / "conf"
AA = "00000000000000aa"
SMALL = Forest(n_features=60, width=24, n_roots=4, branching=3, depth=2, lowest_rate=0.01, seed=3)


@cache
def preset(name: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("config", overrides=[f"source={name}"]).source)


def test_v1_is_v2_but_for_the_magnitude_of_children():
    v2, v1 = preset("synthsaebench_16k"), preset("synthsaebench_16k_v1")
    assert v2.scale_children
    assert v1 == replace(v2, scale_children=False)


def of_world(source: Any, **provenance: Any) -> Record:
    where = {"source": source} if source else {}
    origin = {**example.PROVENANCE, **provenance}
    return example.record("recovery", where, {"name": "topk"}, 0, scores={}, provenance=origin)


def test_a_world_has_a_version_only_where_its_law_and_numbers_are_the_published_ones():
    v2, v1 = preset("synthsaebench_16k"), preset("synthsaebench_16k_v1")
    assert [version_of(of_world(world.identity())) for world in (v2, v1)] == ["v2", "v1"]
    assert version_of(of_world(replace(v2, seed=0).identity())) == ""
    assert version_of(of_world(preset("synthsaebench_4k").identity())) == ""
    assert version_of(of_world({"name": "two_sparsity"})) == version_of(of_world(None)) == ""


# The config that the page of SynthSAEBench gives, in the words in which sae-lens saves it.
LAW = {
    **{"num_features": 16_384, "hidden_dim": 768, "bias": 0.5, "seed": 42, "dtype": "float32"},
    "firing_probability": {
        **{"generator_name": "zipfian", "exponent": 0.5, "max_prob": 0.4, "min_prob": 5e-4},
    },
    "hierarchy": {
        **{"total_root_nodes": 128, "branching_factor": 4, "max_depth": 3},
        **{"mutually_exclusive_portion": 1.0, "mutually_exclusive_min_depth": 0},
        **{"compensate_probabilities": True, "scale_children_by_parent": True},
    },
    "orthogonalization": {"num_steps": 100, "lr": 3e-4},
    "correlation": {"rank": 25, "correlation_scale": 0.1},
    "mean_firing_magnitudes": {"generator_name": "linear", "start": 5.0, "end": 4.0},
    "std_firing_magnitudes": {"generator_name": "folded_normal", "mean": 0.5, "std": 0.5},
}


def test_a_saved_world_has_the_version_of_the_law_in_its_folder():
    saved = {"name": "saved_world", "version": 1, "sha256": "0" * 64}
    unscaled = {k: v for k, v in LAW["hierarchy"].items() if k != "scale_children_by_parent"}
    laws = [LAW, {**LAW, "hierarchy": unscaled}, {**LAW, "num_features": 1024}, {}, None]
    versions = [version_of(of_world(saved, law=law)) for law in laws]
    assert versions == ["v2 as saved", "v1 as saved", "", "", ""]
    assert version_of(of_world(saved)) == ""


def test_a_record_of_a_saved_world_states_the_law_of_its_folder(tmp_path):
    saelens_world.save(SMALL, tmp_path)
    law = SavedWorld(folder=str(tmp_path)).provenance()["law"]
    assert law["num_features"] == 60
    assert law["hierarchy"]["scale_children_by_parent"] is True
    saelens_world.save(replace(SMALL, scale_children=False), tmp_path)
    saved = SavedWorld(folder=str(tmp_path))
    assert saved.provenance()["law"]["hierarchy"]["scale_children_by_parent"] is False
    assert not saved.world().trees.scaled.any()


def test_the_half_of_eight_latents_that_is_dead_are_four_and_explained_is_what_is_left():
    scores = {"sparsity/dead": 0.5, "reconstruction/fvu": 0.3, "latents/f1": 0.7, "lm/kl": 1.0}
    assert in_their_terms(scores, 8) == {
        "dead_latents": 4,
        "explained_variance": 0.7,
        "f1_score": 0.7,
    }


def cell(world: str, trainer: str, seed: int, f1: float, steps: int) -> Record:
    source = preset(world).identity()
    scores = {
        **{"latents/f1": f1, "sparsity/dead": 0.25, "sparsity/l0": 25.04, "detection/f1": f1 / 4},
        **{"coverage/f1": 0.1, "coverage/f1/0.01-0.1": 0.2, "coverage/f1/0.01-0.1_chance": 0.0},
    }
    where = {"source": source, "fit": {"steps": steps, "batch_size": 1024, "init_rows": 8}}
    config = {"name": trainer, "d_sae": 4096}
    return example.record(
        "recovery", where, config, seed, scores=scores, n={"latents/rows": 8192}, label=trainer
    )


def with_latents(record: Record, n: int) -> Record:
    return replace(record, n={**record.n, "latents/f1": n}, id="")


def some_records() -> list[Record]:
    values = [("topk", (0.5, 0.6, 0.55)), ("gba", (0.7, 0.72, 0.71))]
    long = [
        cell("synthsaebench_16k", name, seed, f1, 48829)
        for name, each in values
        for seed, f1 in enumerate(each)
    ]
    other = [
        cell("synthsaebench_16k", "topk", 0, 0.9, 2000),
        cell("synthsaebench_16k_v1", "topk", 0, 0.95, 48829),
        cell("synthsaebench_4k", "topk", 0, 0.99, 48829),
    ]
    return [*long, *other]


def test_every_line_names_its_world_and_the_rows_that_were_seen():
    lines = theirs(settings_of(some_records())).splitlines()[2:]
    cells = [[text.strip() for text in line.strip("|").split("|")] for line in lines]
    assert [row[:4] for row in cells[:4]] == [
        ["gba", "v2", "50M", "3"],
        ["topk", "v2", "50M", "3"],
        ["topk", "v2", "2.0M", "1"],
        ["topk", "v1", "50M", "1"],
    ]
    assert len(cells) == 4 + len(PUBLISHED)
    assert all(row[1] in ("v1", "v2") and row[2].endswith("M") for row in cells)


def test_a_line_holds_mean_and_half_of_the_t_interval_in_their_terms():
    row = rows_of(theirs(settings_of(some_records())))["gba"]
    _, high = stats.t.interval(0.95, 2, 0.71, stats.sem([0.7, 0.72, 0.71]))
    assert row[3] == f".710 ±{high - 0.71:.3f}".replace("±0.", "±.")
    assert row[8:10] == ["25.0 ±.0", "1024 ±0"]
    assert row[10] == "-"  # no record holds the explained variance
    assert row[11] == "8,192"


def test_what_others_published_stands_below_and_nothing_is_ranked():
    table = theirs(settings_of(some_records()))
    names = list(rows_of(table))[2:]
    hollow = [name.startswith("○") for name in names]
    assert hollow == sorted(hollow)
    assert "**" not in table
    best = next(line for line in table.splitlines() if "○ Matryoshka (1) | v2 | 200M" in line)
    assert "| .879 |" in best
    assert "| .793 |" in best


def test_another_width_is_no_line_but_of_a_control_and_its_dead_are_of_its_own_latents():
    wide = with_latents(cell("synthsaebench_16k", "topk", 0, 0.9, 2000), 16_384)
    ceiling = with_latents(cell("synthsaebench_16k", "ceiling_linear", 0, 0.9, 2000), 16_384)
    rows = rows_of(theirs(settings_of([*some_records(), wide, ceiling])))
    assert len(rows_of(theirs(settings_of([*some_records(), wide])))) == len(rows) - 1
    row = next(row for name, row in rows.items() if name.endswith("16,384 latents*"))
    assert row[1] == "-"
    assert row[9] == "4096"  # a quarter of them


def test_coverage_is_shown_by_band_and_chance_is_not():
    heads = over_all(settings_of(some_records())).splitlines()[0]
    assert heads.endswith("| coverage | 0.01-0.1 |")


def test_the_request_has_no_line_of_v1_and_none_of_others():
    text = request(settings_of(some_records()))
    assert "v1" not in text
    assert "○" not in text
    assert text.count("benchmarks.synthsaebench") == 3


def test_records_of_other_worlds_make_no_page():
    records = [cell("synthsaebench_4k", "topk", 0, 0.99, 2000)]
    with pytest.raises(UserError, match="no records of SynthSAEBench-16k"):
        theirs(settings_of(records))


def test_the_board_shows_their_scores_first_and_names_the_world():
    tables = {table.title: table for table in make_tables(settings_of(some_records()))}
    assert {"SynthSAEBench-16k v2", "SynthSAEBench-16k v1"} < set(tables)
    assert tables["SynthSAEBench-16k v2"].columns[0] == "latents/f1"
    other = next(table for title, table in tables.items() if "4096 features" in title)
    assert "latents/f1" not in other.columns


# The command


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a small world, an SAE of it, and no sae-lens."""
    saelens_world.save(SMALL, tmp_path / "world")
    sae = SAE(Architecture(d_in=24, d_sae=16), TopKGate(k=3))
    start_from(sae, random_directions(16, 24, make_generator(0, "init")))
    sae.save(tmp_path / "checkpoints" / AA, {})
    monkeypatch.setattr(lens, "is_installed", lambda: False)
    return tmp_path


def shown(monkeypatch, capsys, *words: str) -> dict[str, list[str]]:
    """Return what the command prints, by the first word of each line."""
    monkeypatch.setattr(sys, "argv", ["benchmarks.synthsaebench", *words])
    command.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {words[0]: words[1:] for words in lines if words}


def test_without_sae_lens_the_command_shows_our_numbers_and_how_to_get_theirs(
    place, monkeypatch, capsys
):
    folder = str(place / "checkpoints" / AA)
    lines = shown(monkeypatch, capsys, folder, "--world", str(place / "world"), "--rows", "500")
    assert lines["score"] == ["ours"]
    assert 2.9 < float(lines["l0"][0]) <= 3  # of a row with fewer positive ones, fewer
    assert 0 < float(lines["F1"][0]) < 1
    assert lines["sae-lens"][-2:] == ["install", "'sae-lens>=6.50'"]


def test_the_sae_of_a_record_is_scored_on_the_world_and_rows_of_the_record(
    place, monkeypatch, capsys
):
    record = example.record(
        "recovery",
        {"source": SMALL.identity()},
        {"name": "topk", "d_sae": 16},
        5,
        scores={"latents/f1": 0.25},
        n={"latents/rows": 300},
        artifacts={"checkpoint": AA, "activations": None},
    )
    save(record, place / "records")
    lines = shown(monkeypatch, capsys, record.id[:10], "--results", str(place))
    assert lines["TopK"][:4] == ["(record", f"{record.id}),", "300", "held-out"]
    assert lines["score"] == ["ours", "record"]
    assert lines["F1"][1] == "0.250000"
    direct = shown(
        *(monkeypatch, capsys, str(place / "checkpoints" / AA), "--rows", "300"),
        *("--world", str(place / "world"), "--seed", "0"),
    )
    assert [lines[name][0] for name in ("F1", "MCC", "EV")] == [
        direct[name][0] for name in ("F1", "MCC", "EV")
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "0 records begin so"),
        (["SAE", "--world", "synthsaebench_1k"], "reads activations of width 24"),
        (["SAE", "--world", "lm_tiny"], "its features are not known"),
        (["SAE", "--world", "nowhere"], "there is no source 'nowhere'"),
    ],
)
def test_what_cannot_be_scored_is_named(place, monkeypatch, capsys, words, message):
    words = [str(place / "checkpoints" / AA) if word == "SAE" else word for word in words]
    with pytest.raises(UserError, match=message):
        shown(monkeypatch, capsys, *words, "--results", str(place))
