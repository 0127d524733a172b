"""Panels stand in the order of a reader: by model and block; their headings differ."""

from pathlib import Path

import example_masking
import example_records as example

from benchmarks.figures import cost, steering_budget
from benchmarks.figures.choice import panel_headings, pick_sae_per_site, sorted_worlds
from benchmarks.results.reading import Entry
from benchmarks.results.settings import Setting, make_settings
from gradsae.records.record import Record

TOPK = {"name": "topk", "k": 32}


def settings_of(records: list[Record]) -> list[Setting]:
    return make_settings(
        Entry(record=record, path=Path(f"{record.id}.json"), origin="own") for record in records
    )


def influence(model: str, site: str) -> Record:
    record = example.influence(15, TOPK, 0)
    source = {**record.config["source"], "site": site}
    config = {**record.config, "model": {"name": model}, "source": source}
    return Record(**{**vars(record), "config": config, "id": ""})


def test_sites_stand_by_model_and_stream_and_then_by_block_as_a_number():
    places = [
        ("gemma3_270m", "resid_post.9"),
        ("smollm2", "mlp_out.15"),
        ("smollm2", "resid_post.15"),
        ("smollm2", "resid_post.7"),
    ]
    shown = pick_sae_per_site(settings_of([influence(*place) for place in places]))
    assert [(s.setup.model.name, s.site) for s in shown] == places[::-1]


def test_worlds_of_one_site_stand_by_their_tokens_after_synthetic_worlds():
    records = [example.recovery(example.SUPERPOSITION, TOPK, 0, (0.9, 0.5), 4.0)]
    for n_tokens in (1_000_000, 40_000, 320_000):
        record = example.lm_recovery(TOPK, 0, 32, 0.3)
        record.config["source"] = {**record.config["source"], "n_tokens": n_tokens}
        records.append(record)
    worlds = sorted_worlds(settings_of(records[::-1]))
    n_tokens = [world.settings[0].setup.source.get("n_tokens") for world in worlds]
    assert n_tokens == [None, 40_000, 320_000, 1_000_000]


def test_the_labels_of_saes_are_in_the_headings_that_would_be_equal_and_in_no_other():
    records = [example.influence(15, {**TOPK, "k": k}, 0) for k in (8, 16)]
    shown = settings_of([*records, example.influence(7, TOPK, 0)])
    first, second, third = panel_headings(shown)
    assert first.endswith("\nTopK k=8") and second.endswith("\nTopK k=16")
    assert third.count("\n") == 1 and "k=32" not in third


def test_a_page_of_cost_has_full_bands_but_for_the_last_one():
    settings = settings_of([influence("smollm2", f"resid_post.{i}") for i in range(10)])
    sizes = [len(page) for page in cost.full_pages(settings)]
    assert sizes == [6, 4]


def test_the_budget_stands_where_the_record_says_and_each_curve_has_its_band():
    from matplotlib import pyplot as plt

    record = example_masking.budget(15, TOPK, 0)
    record.config["ask"] = {"kl_budget": 0.25}
    drawing = steering_budget.draw(settings_of([record]))
    assert drawing is not None
    lines = [line for line in drawing.figure.axes[0].get_lines() if len(line.get_xdata()) == 2]
    assert [0.25, 0.25] in [list(line.get_xdata()) for line in lines]
    bands = drawing.figure.axes[0].collections
    assert len(bands) == 3, "one for each selector"
    assert "KL budget of 0.25 nats" in drawing.text
    plt.close("all")
