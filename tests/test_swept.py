"""Figures of the GBA paper's synthetic experiments: axes, lines, bands, map, captions."""

from pathlib import Path
from typing import Any

import example_records as example
import numpy as np
import pytest
import yaml
from scipy import stats

from benchmarks import experiments
from benchmarks.figures import drawing, resonance, swept
from benchmarks.results.reading import Entry
from benchmarks.results.settings import Setting, make_settings
from benchmarks.results.vocabulary import FAMILIES
from gradsae.records.record import Record
from gradsae.sources.superposition import Superposition

TOPK = {"name": "topk", "k": 4, "d_sae": 512}
GBA = {"name": "gba", "d_sae": 512, "scale_init": 0.05, "bias_init": "zero"}
SWEEPS = {sweep.name: sweep for sweep in swept.SWEEPS}
N_ROWS = 40_000


def settings_of(records: list[Record]) -> list[Setting]:
    return make_settings(
        Entry(record=record, path=Path(f"{record.id}.json"), origin="own") for record in records
    )


def cell_of(source: Superposition, trainer: dict[str, Any] = TOPK) -> Setting:
    return settings_of([example.swept("any", trainer, 0, **source.identity())])[0]


@pytest.fixture
def draw_figure():
    """Draw figures of records, and close them."""
    from matplotlib import pyplot as plt

    def draw(name: str, records: list[Record]) -> Any:
        figures = {figure.NAME: figure for figure in (*swept.FIGURES, resonance)}
        page = figures[name].draw(settings_of(records))
        assert page is not None
        return page

    yield draw
    plt.close("all")


def test_the_axis_of_co_occurrence_is_the_share_found_in_rows():
    source = Superposition(n_features=16, width=8, l0=4, paired=0.3)
    truth = source.held_out(N_ROWS, 0).truth
    assert truth is not None
    active = (truth.to_dense() > 0).double()
    together = (active[:, 0] * active[:, 1]).sum() / active[:, 0].sum()
    assert swept.co_occurrence(cell_of(source)) == pytest.approx(together.item(), abs=0.02)


def test_the_axis_of_unbalanced_rates_is_the_ratio_of_the_true_rates():
    source = Superposition(n_features=40, width=8, l0=2, support="bernoulli", exponent=0.7)
    rates = source.rates()
    assert swept.spread_of_rates(cell_of(source)) == pytest.approx((rates[0] / rates[-1]).item())


def test_the_axis_of_noise_is_the_ratio_of_mean_squares():
    source = Superposition(n_features=40, width=32, l0=4, noise=0.1)
    x, truth, _ = source.held_out(N_ROWS, 0)
    assert truth is not None
    signal = truth.to_dense() @ source.features()
    ratio = (x - signal).square().mean() / signal.square().mean()
    # The signal's mean square depends on the directions: 1 / 32 up to their overlaps.
    assert swept.noise_share(cell_of(source)) == pytest.approx(ratio.item(), rel=0.1)


def test_a_line_has_the_mean_and_the_t_interval_of_its_cells_and_chance_is_dotted(draw_figure):
    sizes, seeds = (2, 8), range(3)
    records = {
        size: [example.swept("sparsity", TOPK, seed, l0=size) for seed in seeds] for size in sizes
    }
    for size in sizes:
        for seed, record in zip(seeds, records[size], strict=True):
            record.scores["recovery/mcc"] = 0.9 - 0.01 * seed - 0.1 * size / 8
    figure = draw_figure("sparsity", [*records[8], *records[2]]).figure
    axes = next(axes for axes in figure.axes if axes.get_ylabel() == "MCC")
    line, chance = axes.get_lines()
    assert list(line.get_xdata()) == list(sizes)
    values = [[record.scores["recovery/mcc"] for record in records[size]] for size in sizes]
    assert list(line.get_ydata()) == pytest.approx([np.mean(v) for v in values])
    band = axes.collections[0].get_paths()[0].vertices
    for size, scores in zip(sizes, values, strict=True):
        ends = band[band[:, 0] == size][:, 1]
        expected = stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores))
        assert [ends.min(), ends.max()] == pytest.approx(expected)
    controls = [[r.scores["recovery/mcc/chance"] for r in records[size]] for size in sizes]
    assert list(chance.get_ydata()) == pytest.approx([np.mean(c) for c in controls])
    assert chance.get_linestyle() == ":"


def test_a_method_without_the_swept_setting_is_a_level_line(draw_figure):
    scales = (0.05, 1.0)
    records = [example.swept("initialisation", {**GBA, "scale_init": s}, 0) for s in scales]
    records.append(example.swept("initialisation", TOPK, 0))
    axes = draw_figure("initialisation", records).figure.axes[0]
    lines = [(line.get_color(), list(line.get_xdata())) for line in axes.get_lines()]
    (topk, across), (gba, at) = lines[:2]
    assert topk == FAMILIES["topk"][0].colour and across == [0, 1]  # from edge to edge
    assert gba == FAMILIES["bias_rule"][0].colour and at == list(scales)


def test_the_lines_of_one_method_are_told_apart_by_their_style(draw_figure):
    inits = ("zero", "quantile")
    records = [example.swept("initialisation", {**GBA, "bias_init": b}, 0) for b in inits]
    figure = draw_figure("initialisation", records).figure
    first, second, *_ = figure.axes[0].get_lines()
    assert first.get_color() == second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["GBA, bias init quantile", "GBA, bias init zero", "chance"]


def test_each_law_of_coefficients_has_a_column_of_panels(draw_figure):
    laws = ("balanced", "half_normal")
    records = [example.swept("width", TOPK, 0, coefficients=law) for law in laws]
    figure = draw_figure("width", records).figure
    assert [a.get_title() for a in figure.axes if a.get_title()] == ["balanced", "half normal"]
    assert len(figure.axes) == 2 * len(swept.SHOWN)


def test_a_setting_that_another_experiment_ran_is_drawn_and_its_other_settings_are_not():
    records = [
        example.swept("noise", TOPK, 0, noise=0.1),
        example.swept("sparsity", TOPK, 0, noise=0.0),  # the one without noise
        example.swept("sparsity", TOPK, 0, noise=0.0, l0=8),
        example.swept("width", {**TOPK, "d_sae": 256}, 0, noise=0.0),
        example.swept("initialisation", {**GBA, "scale_init": 1.0}, 0, noise=0.2, l0=2),
        example.swept("elsewhere", TOPK, 0, noise=0.3),
    ]
    shown = swept.settings_of(SWEEPS["noise"], settings_of(records))
    assert sorted(setting.setup.source.get("noise") for setting in shown) == [0.0, 0.1]
    assert {setting.setup.source.get("l0") for setting in shown} == {4}


def test_a_variant_of_a_method_from_another_experiment_is_not_drawn_on_the_methods_line():
    usual, variant = ({**GBA, "scale_init": scale} for scale in (0.05, 1.0))
    records = [
        example.swept("noise", usual, 0, noise=0.1),
        example.swept("noise", TOPK, 0, noise=0.1),  # has no scale that could differ
        example.swept("initialisation", usual, 0, noise=0.0),
        example.swept("initialisation", variant, 0, noise=0.0),
    ]
    shown = swept.settings_of(SWEEPS["noise"], settings_of(records))
    assert {setting.setup.trainer.get("scale_init") for setting in shown} == {0.05, None}
    assert len(shown) == 3


def test_a_world_with_pairs_is_not_drawn_as_one_without():
    pairs = example.swept("cooccurrence", TOPK, 0, paired=0.5)
    records = [pairs, example.swept("sparsity", TOPK, 0, l0=2)]
    assert len(swept.settings_of(SWEEPS["sparsity"], settings_of(records))) == 1


def test_records_of_other_experiments_are_not_drawn():
    settings = settings_of([example.swept("noise", TOPK, 0)])
    assert swept.draw(SWEEPS["sparsity"], settings) is None
    assert resonance.draw(settings) is None


@pytest.mark.parametrize(("f_d", "width", "upper"), [(0.08, 8, 0.08), (0.48, 48, 0.1)])
def test_the_band_ends_at_the_smaller_of_the_root_of_the_rate_and_rate_times_width(
    f_d, width, upper
):
    assert f_d == pytest.approx(0.01 * width)
    assert resonance.upper_end(0.01, width) == pytest.approx(upper)


def test_the_map_has_each_mean_at_its_rate_and_width(draw_figure):
    rates, widths = (0.01, 0.02, 0.04), (8, 24)
    records = [
        example.swept("resonance", {"name": "ba", "htf": rate}, 0, width=width)
        for width in widths
        for rate in rates
    ]
    for i, record in enumerate(records):
        record.scores["recovery/frr_0.9"] = i / 10
    axes = draw_figure("resonance", records[::-1]).figure.axes[0]
    image = np.asarray(axes.get_images()[0].get_array())
    assert image == pytest.approx(np.arange(6).reshape(2, 3) / 10)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["8", "24"]


def test_a_rate_lies_where_the_columns_around_it_say():
    rates = [0.01, 0.02, 0.04, 0.08]
    assert [resonance.column(rate, rates) for rate in rates] == pytest.approx([0, 1, 2, 3])
    assert resonance.column(0.02 * 2**0.5, rates) == pytest.approx(1.5)


def test_a_caption_gives_the_cost_in_all_and_of_a_record_and_the_memory(draw_figure):
    records = [example.swept("sparsity", TOPK, seed) for seed in range(3)]
    for record, seconds, peak in zip(records, (1.0, 2.0, 240.0), (1e9, 3e9, 2e9), strict=True):
        record.cost.update(seconds=seconds, peak_bytes=int(peak))
    words = drawing.caption("sparsity", draw_figure("sparsity", records))
    assert "Cost: 4 min in all, 81 s a record (1.0 s to 4 min); peak memory 3.0 GB." in words
    records[0].cost.update(seconds=None)
    words = drawing.caption("sparsity", draw_figure("sparsity", records))
    assert "Cost: 4 min in all, 2 min a record (2.0 s to 4 min), 1 not measured;" in words


def test_a_caption_names_the_command_without_the_words_that_change_no_record(draw_figure):
    typed = "python -m benchmarks.run experiment=sparsity"
    records = []
    for seed, words in enumerate(("", " tracking=none", " results=x force=true")):
        about = {**example.PROVENANCE, "command": f"{typed}{words}"}
        record = example.swept("sparsity", TOPK, seed)
        records.append(Record(**{**vars(record), "provenance": about}))
    words = drawing.caption("sparsity", draw_figure("sparsity", records))
    assert f"Records made by `{typed}`; drawn by" in words


def test_a_header_ends_with_its_comment_and_joins_the_lines_of_a_field():
    text = "# @package _global_\n# Cost:   3 min\n#         and 1 GB\nseed: 1\n# Cost: 9"
    assert experiments.header(text) == {"Cost": "3 min and 1 GB"}


@pytest.mark.parametrize("name", [*SWEEPS, "resonance"])
def test_an_experiment_says_its_question_its_figure_its_seeds_and_its_cost(name):
    text = (experiments.FOLDER / f"{name}.yaml").read_text()
    about = experiments.header(text)
    assert {"Question", "Output", "Cost"} <= about.keys()
    assert len(str(yaml.safe_load(text)["sweep"]["seed"]).split(",")) > 1
    assert f"`python -m benchmarks.figures --only {name}`" in about["Output"]
    listed = experiments.lines()
    at = next(i for i, line in enumerate(listed) if line.split()[0] == name)
    assert about["Cost"] in listed[at] and about["Question"] in listed[at + 1]
