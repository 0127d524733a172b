"""The influence tables show the records: which prompts, which scalars, which of two records."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import example_records as example
import pytest

from benchmarks import influence_table
from benchmarks.influence_table import EXPERIMENT, number, sections, short, whole
from benchmarks.render.markdown import markers
from benchmarks.results.reading import Entry, without_retired
from benchmarks.results.settings import Estimate, Setting, make_settings
from gradsae.errors import UserError
from gradsae.records.record import Record, save

TOPK = {"name": "topk", "k": 32}


def a_record(
    n: int,
    scores: dict[str, float],
    depth: int = 7,
    *,
    batch_rows: int = 32,
    scalar: str = "log_prob",
    **prompts: Any,
) -> Record:
    where = {
        "source": {"name": "lm_layer", "site": f"resid_post.{depth}"},
        "model": {"name": "smollm2"},
        "corpus": {"name": "prose"},
        "ask": {
            "prompts": {"n_prompts": n, "length": 16, **prompts},
            **{"batch_rows": batch_rows, "scalar": scalar},
        },
    }
    full = {"influence/cost/ablation": 130.0, "influence/n_active": 300.0}
    full |= {f"influence/{name}": value for name, value in scores.items()}
    rates = [name for name in full if "spearman" in name or "precision" in name]
    return example.record(
        *("influence", where, TOPK, 0),
        scores=full,
        intervals={name: [full[name] - 0.1, full[name] + 0.1] for name in rates},
        n={"influence/prompts": n} | dict.fromkeys(rates, n),
        experiment=EXPERIMENT,
    )


def settings_of(*records: Record) -> list[Setting]:
    return make_settings(Entry(record=r, path=Path(f"{r.id}.json"), origin="own") for r in records)


MANY = {
    **{"spearman/grad_times_act": 0.9, "precision_at_10/grad_times_act": 0.7},
    **{"spearman/mean_act": 0.05, "precision_at_10/mean_act": 0.2, "cost/mean_act": 0.27},
    **{"spearman/hop_lean10_10fe": 0.98, "precision_at_10/hop_lean10_10fe": 0.96},
    **{"cost/hop_lean10_10fe": 10.0, "cost/grad_times_act": 2.47},
}
FEW = {
    **{"spearman/grad_times_act": 0.8, "spearman.kl/grad_times_act": 0.4},
    **{"spearman/relp": 0.3, "cost/relp": 2.47, "cost/grad_times_act": 2.47},
}


def rows_of(table: str) -> dict[str, list[str]]:
    rows = [[t.strip() for t in line.strip("|").split("|")] for line in table.splitlines() if line]
    return {row[0]: row[1:] for row in rows}


def test_of_two_records_of_as_many_prompts_the_newest_counts():
    scores = {"spearman/grad_times_act": 0.8}
    old = a_record(25, scores, batch_rows=16)
    new = a_record(25, {"spearman/grad_times_act": 0.9})
    new = replace(new, created="2026-11-24T00:00:00+00:00")
    for order in ([old, new], [new, old]):
        (section,) = sections(settings_of(*order))
        assert rows_of(whole([section]))["grad x act"][2] == ".900 [.800, 1.000]"


@pytest.mark.parametrize("flipped", [False, True])
def test_of_two_records_of_one_sae_the_one_with_more_prompts_counts(flipped):
    records = [a_record(25, FEW), a_record(100, MANY)]
    (section,) = sections(settings_of(*(records[::-1] if flipped else records)))
    rows = rows_of(whole([section]))
    assert rows["estimator"] == ["cost", "n", "log_prob", "kl"]
    gradient = [".900 [.800, 1.000] / .700 [.600, .800]", ".400 [.300, .500] (n 25)"]
    assert rows["grad x act"] == ["2.5", "100", *gradient]
    assert rows["RelP"] == ["2.5", "25", ".300 [.200, .400]", "-"]
    assert list(rows)[-4:] == ["hop, verify to 10", "grad x act", "RelP", "mean act"]  # by rank


def test_the_short_form_has_a_row_for_each_sae_and_kind_of_target():
    records = [
        *(a_record(100, MANY, depth) for depth in (15, 7)),
        a_record(25, MANY, answer_length=3),
        a_record(5, FEW, 22),  # nothing but the gradient
    ]
    rows = rows_of(short(sections(settings_of(*records))))
    names = ["smollm2, resid_post.7, TopK, prose", "smollm2, resid_post.15, TopK, prose"]
    assert list(rows)[2:] == [*names, f"{names[0]}, answers of 3 tokens"]
    gradient = ".900 [.800, 1.000] / .700 [.600, .800]"
    hops = ".980 [.880, 1.080] / .960 [.860, 1.060]"
    mean = ".050 [-.050, .150] / .200 [.100, .300]"
    assert rows[names[0]] == ["100", "130", gradient, hops, "-", "-", "-", mean]
    assert rows[f"{names[0]}, answers of 3 tokens"][0] == "25"


def test_earlier_forms_of_an_estimator_are_left_out():
    forms = ("first_hop_10fe", "hop_verify_20fe", "hop_top10_10fe", "hop_doubt10_10fe")
    old = {f"spearman/{name}": 0.97 for name in forms}
    (section,) = sections(settings_of(without_retired(a_record(100, {**MANY, **old}))))
    assert set(section.estimators()) == {"grad_times_act", "mean_act", "hop_lean10_10fe"}


def test_other_prompts_and_other_experiments_are_kept_apart():
    assert len(sections(settings_of(a_record(100, MANY), a_record(100, MANY, length=12)))) == 2
    other_scalar = sections(settings_of(a_record(100, MANY), a_record(25, MANY, scalar="prob")))
    heads = [rows_of(whole([section]))["estimator"] for section in other_scalar]
    assert sorted(head[2] for head in heads) == ["log_prob", "prob"]
    theirs = make_settings(
        Entry(record=a_record(100, MANY), path=Path("x.json"), origin=origin)
        for origin in ("own", "someone")
    )
    assert [section.title.rpartition(", ")[2] for section in sections(theirs)] == [
        "prose",
        "by someone",
    ]
    old = a_record(25, FEW, answer_length=1)  # records from before there was a choice have none
    assert len(sections(settings_of(a_record(100, MANY), old))) == 1
    other = example.influence(7, TOPK, 0)
    with pytest.raises(UserError, match="no records of experiment=influence_table"):
        sections(settings_of(other))


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.98, 0.977, 0.9842, 9, "prompts"), ".980 [.977, .984]"),
        (Estimate(1.0, 0.9999, 1.0, 9, "prompts"), "1.000"),
        (Estimate(-0.05, -0.1, 0.0, 9, "prompts"), "-.050 [-.100, .000]"),
        (Estimate(0.5, None, None, 9, ""), ".500"),
    ],
)
def test_numbers_are_short(estimate, text):
    assert number(estimate) == text


def test_what_differs_is_written_or_named(tmp_path, monkeypatch, capsys):
    for name in ("WHOLE", "SHORT_PAGE"):
        monkeypatch.setattr(influence_table, name, tmp_path / name)
    begin, end = markers(EXPERIMENT)
    (tmp_path / "SHORT_PAGE").write_text(f"a\n{begin}\n{end}\nb\n")
    record = a_record(100, MANY)
    save(record, tmp_path)

    def run(*words: str) -> int:
        words = ("influence_table", "--records", str(tmp_path), *words)
        monkeypatch.setattr("sys.argv", list(words))
        return influence_table.command(influence_table.main)

    assert run("--check") == 1
    assert "does not show the records" in capsys.readouterr().err
    assert not (tmp_path / "WHOLE").exists()
    assert run() == 0
    assert run("--check") == 0
    assert "hop, verify to 10" in (tmp_path / "WHOLE").read_text()
    assert (tmp_path / "SHORT_PAGE").read_text().startswith(f"a\n{begin}\n| SAE of |")
