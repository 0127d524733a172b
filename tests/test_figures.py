"""Figures are drawn from records alone, show the numbers that are in them, and say what is what."""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import example_masking
import example_records as example
import numpy as np
import pytest
from scipy import stats

from benchmarks.figures import (
    against_l0,
    agreement,
    by_world,
    consistency,
    cost,
    density,
    frontier,
    frr_curve,
    gba_toy,
    layer_profile,
    masking,
    recall_after_checks,
    recovery,
    style,
    swept,
    training,
)
from benchmarks.figures.__main__ import FIGURES, draw_all, newest_versions
from benchmarks.figures.choice import settings_of_sae
from benchmarks.figures.drawing import Drawing, Figure, bind_pages, caption
from benchmarks.results.labels import labels
from benchmarks.results.reading import Entry
from benchmarks.results.settings import Estimate, Setting, make_settings
from benchmarks.results.worlds import in_order, make_worlds
from gradsae.influence.task import Influence
from gradsae.records.record import Record

GBA = {"name": "gba"}
TOPK = {"name": "topk", "k": 32}
SPEARMAN = "influence/spearman"


def settings_of(records: list[Record], origin: str = "own") -> list[Setting]:
    return make_settings(
        Entry(record=record, path=Path(f"{record.id}.json"), origin=origin) for record in records
    )


@cache
def records_of_all_figures() -> list[Record]:
    """At least one record for every figure."""
    records = [
        example.recovery(example.SUPERPOSITION, trainer, seed, frr, 4.0)
        for trainer, frr in [(TOPK, (0.95, 0.7)), (GBA, (0.98, 0.9))]
        for seed in range(3)
    ]
    records.append(example.recovery(example.TOY, {"name": "topk", "k": 20}, 0, (0.9, 0.5), 20))
    records += [
        example.recovery(
            example.TOY, {"name": "topk", "k": k}, 0, (0.9, 0.5), k, experiment="f1_against_l0"
        )
        for k in (3, 5, 8)
    ]
    records += [
        example.swept(sweep.name, {**GBA, "d_sae": 256 + i}, 0)
        for i, sweep in enumerate(swept.SWEEPS)
    ]
    records.append(example.swept("resonance", {"name": "ba", "htf": 0.02}, 0))
    records += [
        example.recovery(
            {**example.TOY, "fit": {"steps": steps, "batch_size": 512}},
            *({**TOPK, "d_sae": 64}, 0, (0.5, 0.4), 8),
            experiment="growth",
        )
        for steps in (1000, 4000)
    ]
    records += [example.lm_recovery(TOPK, seed, 32, 0.35) for seed in range(2)]
    records += [example.lm_consistency(TOPK, 0.3), example.lm_consistency(GBA, 0.5)]
    records += [example.influence(depth, TOPK, 0) for depth in (8, 15)]
    records += [
        example.grid(TOPK, seed, name) for seed, name in [(100, "regret_grid"), (0, "regret")]
    ]
    records += [example_masking.masking(depth, TOPK, 0) for depth in (8, 15)]
    return [*records, example.steering(TOPK, 0), example_masking.budget(15, TOPK, 0)]


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Fewer pixels, for speed."""
    monkeypatch.setitem(style.RC, "savefig.dpi", 50)


@pytest.fixture
def close_figures():
    yield
    from matplotlib import pyplot as plt

    plt.close("all")


def test_every_figure_is_written_as_svg_png_and_caption(tmp_path: Path, capsys):
    pages, problems = draw_all(settings_of(records_of_all_figures()), tmp_path)
    assert problems == []
    assert [figure.name for figure in pages] == list(FIGURES)
    for name in FIGURES:
        assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        words = (tmp_path / f"{name}.md").read_text()
        assert "`python -m benchmarks.run -m experiment=example`" in words
        assert f"`python -m benchmarks.figures --only {name}`" in words
        for part in ("AMD EPYC 9B14, 2 cores (cpu)", "seed", "Cost: ", "`0123456`"):
            assert part in words
    assert "24 prompts each" in (tmp_path / "agreement.md").read_text()
    assert "4-bit-rounded (Q4_1 GGUF)" in (tmp_path / "cost.md").read_text()


def test_a_figure_without_records_names_the_command_that_makes_them(tmp_path: Path, capsys):
    pages, problems = draw_all(
        settings_of(records_of_all_figures()[:1]), tmp_path, only="dose_response"
    )
    assert (pages, problems) == ([], [])
    assert "dose_response: no records for it; made by: python -m bench" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_same_records_give_the_same_bytes(tmp_path: Path):
    settings = settings_of(records_of_all_figures())
    for folder in ("a", "b"):
        draw_all(settings, tmp_path / folder, only="recovery")
    for suffix in ("svg", "png", "md"):
        first, second = (tmp_path / f / f"recovery.{suffix}" for f in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


@cache
def many_worlds() -> list[Record]:
    """More worlds, of known features and of a language model, than go on a page of 4.2 inches."""
    worlds = [{"source": {"name": "forest", "n_features": n, "width": 8}} for n in range(20, 27)]
    records = [
        example.recovery(world, {"name": "topk", "k": k}, 0, (0.9, 0.5), k, experiment=name)
        for world in worlds
        for k, name in [(2, "mine"), (3, "mine"), (4, "f1_against_l0")]
    ]
    for i in range(4):
        for record in (example.lm_recovery({**TOPK, "k": k}, 0, k, 0.3) for k in (16, 32)):
            record.config["source"] = {"name": "lm_layer", "site": f"resid_post.{i}"}
            records.append(record)
        records.append(example.lm_consistency(TOPK, 0.3))
        records[-1].config["corpus"] = {"name": f"corpus {i}"}
        records.append(example.influence(15, TOPK, 0))
        records[-1].config["corpus"] = {"name": f"corpus {i}"}
    return records


@pytest.mark.parametrize(
    "figure", [recovery, training, density, frr_curve, frontier, consistency, cost]
)
def test_no_page_is_taller_than_paper_and_captions_count_their_own(
    figure: Any, close_figures, monkeypatch
):
    for module in (against_l0, by_world, consistency, recovery):
        monkeypatch.setattr(module, "MAX_HEIGHT", 4.2)
    monkeypatch.setattr(cost, "BANDS_PER_PAGE", 1)
    highest = 4.2 if figure is not cost else style.MAX_HEIGHT
    settings = settings_of(many_worlds())
    first = figure.draw(settings)
    assert first is not None
    pages = [first, *first.further_pages]
    assert all(page.figure.get_size_inches()[1] <= highest for page in pages)
    assert len(pages) > 1
    assert all(f"Page {i} of {len(pages)}." in page.title for i, page in enumerate(pages, start=1))
    shown = [setting for page in pages for setting in page.settings]
    assert len(set(shown)) == len(shown), "each on one page"
    assert f"{len(first.settings)} record" in caption(figure.NAME, first)


def test_further_pages_are_files_of_their_own(tmp_path: Path, monkeypatch):
    settings = settings_of(records_of_all_figures()[:2])

    def draw(settings: Any) -> Drawing | None:
        pages = [style.new_figure(height=1)[0] for _ in range(2)]
        return bind_pages(
            [Drawing(figure=page, title="Title.", text="", settings=settings) for page in pages]
        )

    monkeypatch.setitem(FIGURES, "some", Figure(NAME="some", COMMAND="", draw=draw))
    pages, problems = draw_all(settings, tmp_path, only="some")
    assert problems == []
    assert [page.name for page in pages] == ["some", "some_2"]
    assert {path.stem for path in tmp_path.iterdir()} == {"some", "some_2"}
    assert pages[1].caption.startswith("**Title. Page 2 of 2.**")
    assert "`python -m benchmarks.figures --only some`" in pages[1].caption


def test_worlds_are_told_apart_by_one_field_where_one_does_and_counts_are_written_out():
    sizes = ({"n_tokens": 320_000, "n_eval_tokens": 9}, {"n_tokens": 1_000_000, "n_eval_tokens": 7})
    records = [
        example.recovery(
            {"source": {"name": "forest", **size}}, {"name": "topk", "k": 2}, 0, (1.0, 1.0), 9
        )
        for size in sizes
    ]
    titles = [world.title for world in make_worlds(settings_of(records))]
    assert titles == ["forest (n_tokens=320,000)", "forest (n_tokens=1,000,000)"]


def test_a_world_with_more_rows_than_a_page_goes_on_on_the_next():
    records = [
        example.recovery(example.TOY, {"name": "topk", "k": k}, 0, (0.9, 0.5), k)
        for k in range(1, 100)
    ]
    settings = settings_of(records)
    pages = recovery.split_pages(make_worlds(settings))
    assert len(pages) > 1
    assert [setting for page in pages for world in page for setting in world.settings] == in_order(
        settings
    )


def test_curves_of_one_world_show_every_setting_and_of_several_the_middle_one_of_each_method():
    records = [r for r in many_worlds() if r.config["source"].get("n_features") == 20]
    (world,) = by_world.choose_worlds(settings_of(records))
    assert [setting.setup.trainer.get("k") for setting in world.settings] == [2, 3]
    records = [r for r in many_worlds() if r.config["source"]["name"] == "forest"]
    for world in by_world.choose_worlds(settings_of(records)):
        assert [setting.setup.trainer.get("k") for setting in world.settings] == [2]


def test_an_experiment_with_a_figure_of_its_own_is_in_no_curve_unless_it_is_alone():
    with_figure = example.swept("noise", TOPK, 0)
    other = example.recovery(example.SUPERPOSITION, TOPK, 0, (0.9, 0.5), 4.0)
    settings = settings_of([with_figure, other])
    assert by_world.without_own_figure(settings) == settings[1:]
    assert by_world.without_own_figure(settings[:1]) == settings[:1]


def test_curves_are_of_methods_that_train_where_there_are_any():
    records = [
        example.recovery(example.SUPERPOSITION, {"name": name}, 0, (0.9, 0.5), 4.0)
        for name in ("random", "topk", "gba", "ceiling")
    ]
    (world,) = by_world.choose_worlds(settings_of(records))
    assert [setting.method for setting in world.settings] == ["topk", "gba", "ceiling"]


def lines_of(axes: Any) -> list[tuple[list[float], list[float]]]:
    return [
        (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())))
        for line in axes.get_lines()
    ]


def test_recovery_shows_the_mean_the_t_interval_and_chance(close_figures):
    records = [
        r
        for r in records_of_all_figures()
        if r.config["trainer"] == GBA and "recovery/mcc" in r.scores
    ]
    drawing = recovery.draw(settings_of(records))
    assert drawing is not None
    values = [record.scores["recovery/mcc"] for record in records]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    chance = np.mean([record.scores["recovery/mcc/chance"] for record in records])
    xs = [x for x, _ in lines_of(drawing.figure.axes[2])]
    assert xs[0] == pytest.approx([low, high])
    assert xs[1] == pytest.approx([np.mean(values)])
    assert xs[2] == pytest.approx([chance])


def test_the_frontier_joins_the_settings_of_a_method_and_leaves_out_lone_ones(close_figures):
    swept = [example.lm_recovery({**TOPK, "k": k}, 0, k, 0.5 - k / 200) for k in (64, 16, 32)]
    other = example.lm_recovery(GBA, 0, 30, 0.4)
    other.config["source"] = {"name": "lm_layer", "site": "resid_post.22"}
    drawing = frontier.draw(settings_of([*swept, other]))
    assert drawing is not None
    fvu, recovered, _ = drawing.figure.axes
    for axes, score in ((fvu, "reconstruction/fvu"), (recovered, "lm/ce_recovered")):
        points = sorted((r.scores["sparsity/l0"], r.scores[score]) for r in swept)
        assert lines_of(axes)[-1] == tuple(map(list, zip(*points, strict=True)))
    assert len(drawing.settings) == 3, "a world with one setting has no frontier"
    alone = frontier.draw(settings_of([other]))
    assert alone is not None, "unless there is no other"


def test_consistency_draws_the_series_and_the_jackknife_intervals(close_figures):
    record = example.lm_consistency(TOPK, 0.3)
    drawing = consistency.draw(settings_of([record]))
    assert drawing is not None
    columns = record.series["consistency/selection"]
    by_z = [i for i, rule in enumerate(columns["rule"]) if rule == "z"]
    line, *whisker_lines = lines_of(drawing.figure.axes[1])
    assert line == tuple([columns[name][i] for i in by_z] for name in ("alpha", "share"))
    whiskers = {xs[0]: ys for xs, ys in whisker_lines if xs[0] == xs[-1]}
    name = "consistency/mcs_0.9"
    assert whiskers[0.01] == record.intervals[f"{name}/top_z_1"]
    assert whiskers[1.0] == record.intervals[name]


def test_gba_toy_shows_the_papers_numbers_beside_ours(close_figures):
    trainers = [{"name": "topk", "k": 20}, {"name": "topk", "k": 7}, GBA]
    trainers.append({"name": "gba", "htf": 0.01})
    records = [example.recovery(example.TOY, trainer, 0, (0.5, 0.4), 9) for trainer in trainers]
    settings = settings_of(records)
    rows = ["TopK K=20", None, "GBA, targets cover f", "GBA, wrong frequency range"]
    assert [gba_toy.paper_row(setting) for setting in settings] == rows
    drawing = gba_toy.draw(settings)
    assert drawing is not None
    axes = drawing.figure.axes[0]
    hollow = [
        float(line.get_xdata()[0])
        for line in axes.get_lines()
        if line.get_markerfacecolor() == "none"
    ]
    # All five rows of the paper's table, those without a recipe of ours in rows of their own.
    expected = [1, 0.984, 0.984, 0.242, 0.945, 0.234, 1, 1, 0.383, 0.039]
    assert sorted(hollow) == sorted(expected)
    assert "TopK K=30 (paper)" in [label.get_text() for label in axes.get_yticklabels()]


def test_agreement_shows_the_sites_asked_for_most_and_no_empty_frame(close_figures):
    records = [example.influence(depth, TOPK, 0) for depth in range(3, 9)]
    asked_less = records[2]  # block 5: neither scored nor drawn
    for key in [key for key in asked_less.scores if key.endswith("/mean_act")]:
        del asked_less.scores[key]
    del asked_less.series[agreement.SERIES]["mean_act"]
    assert [setting.depth for setting in agreement.choose(settings_of(records))] == [3, 4, 6, 7, 8]
    drawing = agreement.draw(settings_of(records[:3]))
    assert drawing is not None
    assert [axes.axison for axes in drawing.figure.axes].count(False) == 1


def test_a_panel_of_the_layer_profile_holds_one_setting_at_all_depths(close_figures):
    other = {**TOPK, "k": 64}
    records = [example.influence(depth, t, 0) for t in (TOPK, other) for depth in (15, 8, 22)]
    panels = layer_profile.group_by_sae(settings_of(records))
    assert [[setting.depth for setting in panel] for panel in panels.values()] == [[8, 15, 22]] * 2


def test_a_panel_of_the_layer_profile_joins_what_one_sae_was_asked(close_figures):
    wide, deep = example.influence(15, TOPK, 0, 24), example.influence(15, TOPK, 0, 100)
    deep.config["ask"] = {"other": True}
    deep.scores[f"{SPEARMAN}/grad_times_act"] = 0.123
    (panel,) = layer_profile.group_by_sae(settings_of([wide, deep])).values()
    assert [setting.first.n["influence/prompts"] for setting in panel] == [100, 24]
    drawing = layer_profile.draw(settings_of([wide, deep]))
    assert drawing is not None
    heights = [float(y) for _, ys in lines_of(drawing.figure.axes[0]) for y in ys if len(ys) == 1]
    assert 0.123 in heights
    assert wide.scores[f"{SPEARMAN}/grad_times_act"] not in heights


def test_the_mlp_of_a_block_has_a_panel_of_the_layer_profile_of_its_own():
    stream, mlp = example.influence(15, TOPK, 0), example.influence(15, TOPK, 0)
    mlp.config["source"] = {**mlp.config["source"], "site": "mlp_out.15"}
    panels = layer_profile.group_by_sae(settings_of([stream, mlp]))
    assert [[setting.place for setting in panel] for panel in panels.values()] == [
        ["resid_post"],
        ["mlp_out"],
    ]
    first, second = panels
    assert second == f"{first}, mlp_out"


def test_panels_of_the_layer_profile_with_one_title_are_all_there():
    records = [example.influence(15, {**TOPK, "k": k}, 0) for k in (8, 16, 32, 64)]
    assert len(layer_profile.group_by_sae(settings_of(records))) == 4


def test_worlds_of_one_name_are_told_apart_by_what_differs():
    worlds = [{"source": {**example.SUPERPOSITION["source"], "noise": x}} for x in (0.0, 0.1)]
    records = [example.recovery(w, TOPK, s, (0.9, 0.5), 4) for w in worlds for s in (0, 1)]
    worlds = make_worlds(settings_of(records))
    name = "superposition, 256 features in 64 dimensions"
    assert [world.title for world in worlds] == [f"{name} (noise=0)", f"{name} (noise=0.1)"]
    assert [world.settings[0].n_seeds for world in worlds] == [2, 2]


def test_a_dose_response_of_a_single_prompt_has_no_bands(tmp_path: Path):
    record = example.steering(TOPK, 0)
    columns = record.series["steering/dose_response"]
    for name in ("effect_low", "effect_high", "kl_low", "kl_high", "ppl_ratio"):
        columns[name] = [None] * len(columns["dose"])
    pages, problems = draw_all(settings_of([record]), tmp_path, only="dose_response")
    assert (len(pages), problems) == (1, [])


@pytest.mark.parametrize(("figure", "panels"), [(layer_profile, 3), (cost, 2)])
def test_no_panel_cuts_off_what_another_one_shows(figure: Any, panels: int, close_figures):
    low = example.influence(8, {"name": "l1"}, 0)
    low.scores["influence/spearman/mean_act"] = -0.5
    low.intervals["influence/spearman/mean_act"] = [-0.7, -0.3]
    records = [example.influence(15, TOPK, 0), low, example.influence(8, GBA, 0)]
    drawing = figure.draw(settings_of(records))
    assert drawing is not None
    assert all(axes.get_ylim()[0] < -0.7 for axes in drawing.figure.axes[:panels])


def test_the_frontier_of_cost_leaves_out_what_something_no_dearer_equals():
    def point(name: str, price: float, mean: float) -> cost.Point:
        return cost.Point(name, price, Estimate(mean, None, None, 1, ""))

    points = [point("dear", 9, 0.8), point("best", 20, 0.9), point("free", 0, 0.1)]
    points += [point("equal", 5, 0.8), point("worse", 5, 0.7), point("low", 2, 0.0)]
    assert [p.name for p in cost.frontier(points)] == ["free", "equal", "best"]


def test_cost_shows_all_that_one_sae_was_asked_with_the_most_prompts_of_each(close_figures):
    wide, deep = example.influence(15, TOPK, 0, 24), example.influence(15, TOPK, 0, 100)
    deep.config["ask"] = {"other": True}
    for scores in ("spearman", "precision_at_10", "cost"):
        del deep.scores[f"influence/{scores}/released_gradsae"]
    deep.scores["influence/spearman/grad_times_act"] = 0.123
    for records in ([wide, deep], [deep, wide]):
        settings = settings_of(records)
        drawing = cost.draw(settings)
        assert drawing is not None
        assert len(drawing.settings) == 2
        assert len(drawing.figure.axes) == 2  # one panel of two scores
        means = {
            p.name: p.quality.mean
            for p in cost.points_of(settings_of_sae(settings, settings[0]), SPEARMAN)
        }
        assert means["grad_times_act"] == 0.123
        assert means["released_gradsae"] == wide.scores[f"{SPEARMAN}/released_gradsae"]
    other = example.influence(15, TOPK, 1)
    other.config["trainer"] = {**other.config["trainer"], "k": 99}
    settings = settings_of([wide, other])
    assert [len(settings_of_sae(settings, setting)) for setting in settings] == [1, 1]


def test_of_two_maskings_of_one_sae_the_one_with_more_questions_is_drawn(close_figures):
    deep = example_masking.masking(15, TOPK, 0)
    other = example_masking.masking(22, TOPK, 0)
    records = [
        replace(
            record,
            id="",  # made anew
            n={**record.n, "masking/questions": n},
            config={**record.config, "ask": {"n": n}},
        )
        for record, n in [(deep, 20), (deep, 80), (other, 30)]
    ]
    drawing = masking.draw(settings_of(records))
    assert drawing is not None
    assert sorted(setting.first.n["masking/questions"] for setting in drawing.settings) == [30, 80]
    assert (
        "2 of 3 settings are drawn. Of settings with one SAE, the one with the most" in drawing.text
    )


def test_markers_of_cost_that_would_cover_one_another_stand_side_by_side(close_figures):
    record = example.influence(15, TOPK, 0)
    for name in example.QUALITY:
        record.scores[f"influence/spearman/{name}"] = 0.9
        record.scores[f"influence/cost/{name}"] = 3.0
    record.intervals.clear()
    drawing = cost.draw(settings_of([record]))
    assert drawing is not None
    axes = drawing.figure.axes[0]
    ends = [line.get_transform().transform(line.get_xydata())[0] for line in axes.get_lines()[2:]]
    ends = [end for end in ends if np.isfinite(end).all()]
    gaps = [np.hypot(*(a - b)) for i, a in enumerate(ends) for b in ends[:i]]
    assert len(gaps) == 6
    assert min(gaps) * 72 / drawing.figure.dpi >= cost.MARKER_SIZE - 1e-6


def test_recall_after_checks_draws_the_series_from_k_on_beside_a_random_order(close_figures):
    record = example.influence(15, TOPK, 0)
    drawing = recall_after_checks.draw(settings_of([record]))
    assert drawing is not None
    lines = lines_of(drawing.figure.axes[0])
    quality = example.QUALITY["mean_act"]
    checks = [10, 20, 50, 200]
    expected = [quality + (1 - quality) * n / 200 for n in checks]
    assert any(xs == checks and ys == pytest.approx(expected) for xs, ys in lines)
    random = [0.05, 0.1, 0.25, 1.0]  # of 200 latents
    assert any(xs == checks and ys == pytest.approx(random) for xs, ys in lines)
    assert "random" not in recall_after_checks.curves(drawing.settings[0])
    low, high = record.intervals["influence/precision_at_10/mean_act"]
    assert any(ys == [low, high] and max(xs) < 10 for xs, ys in lines)


def test_estimators_that_spend_checks_are_not_drawn_against_checks():
    record = example.influence(15, TOPK, 0)
    spender = {"label": "a new one", "spends_checks": True}
    record.about["variants"] = {"new_one": spender}
    names = record.series[recall_after_checks.SERIES]["estimator"]
    names[:] = [name.replace("grad_times_act", "new_one") for name in names]
    (setting,) = settings_of([record])
    assert set(recall_after_checks.curves(setting)) == {"released_gradsae", "mean_act"}
    spender["spends_checks"] = False
    assert set(recall_after_checks.curves(setting)) == {"new_one", "released_gradsae", "mean_act"}


def test_two_versions_of_a_task_are_never_in_one_figure(capsys):
    record, current = example.influence(15, TOPK, 0), Influence.version
    versions = [
        Record(**{**vars(record), "task": {"name": "influence", "version": version}, "id": ""})
        for version in (current - 1, current, current + 1)  # the last one is not known here
    ]
    newest = newest_versions(settings_of(versions))
    assert [setting.first.task["version"] for setting in newest] == [current]
    assert "2 settings of other task versions are left out" in capsys.readouterr().out


def test_a_label_with_dollars_and_line_breaks_is_drawn_as_text(tmp_path: Path):
    label = r"$\frac{1}{2 & <b>" + "\n" + "x" * 100
    hostile = example.recovery(example.SUPERPOSITION, TOPK, 0, (0.9, 0.5), 4.0, label=label)
    settings = settings_of([hostile, *records_of_all_figures()[:1]])
    assert max(map(len, labels(settings))) <= 60
    pages, problems = draw_all(settings, tmp_path, only="recovery")
    assert (len(pages), problems) == (1, [])


def test_a_series_of_the_wrong_kind_is_left_out_by_name(tmp_path: Path, capsys):
    bad = {"recovery/frr_curve": {"tau": ["a", "b"], "frr": [None, "c"]}}
    record = example.recovery(example.SUPERPOSITION, TOPK, 0, (0.9, 0.5), 4.0, series=bad)
    pages, problems = draw_all(settings_of([record]), tmp_path)
    assert "recovery" in [figure.name for figure in pages]
    assert problems == []
    said = [line for line in capsys.readouterr().err.splitlines() if "the figure frr_curve" in line]
    assert len(said) == 1 and said[0].startswith("left out: ")


@pytest.mark.parametrize("command", ["figures", "leaderboard", "publish"])
def test_help_needs_neither_matplotlib_nor_torch(command: str):
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        "try: runpy.run_module('benchmarks.COMMAND', run_name='__main__')\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert not {'matplotlib', 'torch', 'scipy', 'wandb'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code.replace("COMMAND", command)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage: python -m benchmarks." in done.stdout
