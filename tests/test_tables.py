"""Console tables are aligned, honest about seeds, and safe to print."""

import example_records as example
import pytest

from benchmarks.render.console import summary_table
from benchmarks.results.vocabulary import format_score
from gradsae.tables.printing import console_table

TOPK = {"name": "topk", "k": 20}


def test_columns_are_aligned_and_numbers_flush_right():
    assert console_table(["name", "x"], [["a", "1.5"], ["long", "-"], ["b", "10.5"]]) == (
        "name     x\n----  ----\na      1.5\nlong     -\nb     10.5"
    )


def test_control_characters_of_a_record_do_not_reach_the_terminal():
    assert console_table(["h"], [["\x1b[31mred\n\u202e"]]).splitlines()[2] == "?[31mred??"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "-"), (0.0, "0"), (0.9154, "0.915"), (-0.0098, "-0.010"), (0.0001234, "1.2e-04")),
        *((11.46, "11.5"), (123.4, "123"), (123456.0, "1.2e+05")),
    ],
)
def test_scores_have_three_decimals_or_three_digits(value: float | None, text: str):
    assert format_score(value) == text


def test_a_row_is_a_method_with_the_mean_over_its_seeds():
    records = [example.recovery(example.TOY, TOPK, s, (1.0, 0.5), 20) for s in range(3)]
    records += [example.influence(15, TOPK, 0)]
    text = summary_table(records)
    first, second = text.split("\n\n")
    assert first.startswith("recovery, version 1, on two sparsities\n")
    assert first.splitlines()[3].split()[:3] == ["TopK", "k=20", "3"]
    assert "1.000 ±0 " in first
    assert "3 records" in first
    assert "influence, version 1, on resid_post.15 code" in second
    assert "released GradSAE, TopK k=20" in second
    assert records[-1].id in second


def test_cells_that_differ_in_one_field_say_so():
    records = [
        example.recovery(example.TOY, {"name": "gba", "scale_init": scale}, 0, (1.0, 1.0), 9)
        for scale in (1.0, 0.05)
    ]
    text = summary_table(records)
    assert "GBA scale_init=0.05" in text
    assert "GBA scale_init=1 " in text


def test_a_method_tried_on_prompts_says_on_how_many_and_what_the_noise_is():
    record = example.influence(15, TOPK, 0)
    record.n["influence/spearman/grad_times_act"] = 77
    noise = {"noise_floor": 0.002, "noise_floor/no_op_edit": 0.001, "above_noise": 0.9}
    noise["median_abs_effect"] = 0.03
    record.scores.update({f"influence/{name}": value for name, value in noise.items()})
    lines = summary_table([record]).splitlines()
    assert lines[1].split()[:3] == ["method", "seeds", "prompts"]
    (row,) = (line for line in lines if line.startswith("grad x act"))
    assert row.split()[:7] == ["grad", "x", "act,", "TopK", "k=20", "1", "77"]
    assert lines[-1] == (
        f"noise floor ({record.id}): 0.001 by edits that change nothing, 0.002 by rounding; "
        "median |effect| 0.030, share above the floor 0.900"
    )
    assert "prompts" not in summary_table([example.recovery(example.TOY, TOPK, 0, (1, 1), 9)])


def test_further_scalars_and_truths_have_a_table_of_their_own():
    record = example.influence(15, TOPK, 0)
    assert "further" not in summary_table([record])
    asked = {"prob/grad_times_act": 0.25, "shapley_2/grad_times_act": 0.5, "shapley_2/ablation": 1}
    record.scores.update({f"influence/spearman.{name}": value for name, value in asked.items()})
    head, _, first, second = summary_table([record]).splitlines()[-4:]
    assert head.split() == ["estimator", "prob", "shapley_2"]
    assert first.split() == ["grad", "x", "act", "0.250", "0.500"]
    assert second.split() == ["ablation", "(truth)", "-", "1.000"]
