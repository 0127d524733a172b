"""Pages per prompt: what is in the records, all of it escaped, and nothing else."""

import re
import sys
from pathlib import Path

import example_masking as masking
import example_records as example
import pytest

from benchmarks.pages import __main__ as command
from benchmarks.pages.page import index, pages_of
from benchmarks.results.reading import Entry
from benchmarks.results.settings import Setting
from gradsae.errors import UserError
from gradsae.records.record import Record, save

TOPK = {"name": "topk", "k": 32}


def samples() -> Record:
    found = example.steering(TOPK, 0)
    rows = {
        "prompt": ["The war", "The war", "A tax"],
        "selector": ["grad_times_act", "mean_act", "grad_times_act"],
        "latents": ["1, 2", "3, 4", "5, 6"],
        "mode": ["scale", "set", "scale"],
        "dose": [0.0, 2.0, 4.0],
        "before": ["<script>x</script>", "b", "c"],
        "after": ["d", "e", "f"],
    }
    found.series["steering/samples"] = rows
    return found


def cell_of(record: Record) -> Setting:
    return Setting((Entry(record=record, path=Path("x.json"), origin="own"),))


def table_rows(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html, flags=re.S)
    return [
        [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", r)] for r in rows
    ]


def test_latents_stand_in_the_order_of_the_truth_with_the_rank_of_each_ranking():
    record = masking.masking(15, TOPK, 0)
    (page,) = pages_of(record)
    latents = record.series["masking/latents"]
    rows = table_rows(page.html)
    assert rows[0][:4] == ["latent", "strongest at", "true effect", "grad x act"]
    assert [row[0] for row in rows[1:31]] == [str(latent) for latent in latents["latent"]]
    assert rows[1][2].endswith("1") and rows[30][2].endswith("30")
    assert rows[1][3].endswith(str(latents["rank.grad_times_act"][0]))


def test_the_first_ten_of_each_ranking_are_marked():
    record = masking.masking(15, TOPK, 0)
    (page,) = pages_of(record)
    n_rankings = sum(name.startswith("rank.") for name in record.series["masking/latents"])
    marked = page.html.count('class="first"') + page.html.count('class="false"')
    assert marked == 10 * n_rankings
    assert page.html.count('class="false"') == page.html.count('class="missed"') > 0


def test_text_of_a_record_is_escaped_and_no_script_may_run():
    (page,) = pages_of(masking.masking(15, TOPK, 0))
    assert "<b>cat" not in page.html and "&lt;b&gt;cat" in page.html
    first = pages_of(samples())[0]
    assert "<script>" not in first.html
    assert "default-src 'none'; style-src 'sha256-" in first.html


def test_samples_stand_side_by_side_on_one_page_per_prompt():
    pages = pages_of(samples())
    assert len(pages) == 2
    assert pages[0].html.count('class="pair"') == 2
    assert "mean act: set 2" in pages[0].html and "grad x act: off" in pages[0].html


def test_an_influence_record_gives_a_page_per_listed_prompt():
    record = example.influence(15, TOPK, 0, prompts=3)
    pages = pages_of(record)
    assert len(pages) == 3
    scatter = record.series["influence/scatter"]
    effects = [e for e, p in zip(scatter["effect"], scatter["prompt"], strict=True) if p == 0]
    first = table_rows(pages[0].html)[1][0]
    best = effects.index(max(effects))
    latents = [n for n, p in zip(scatter["latent"], scatter["prompt"], strict=True) if p == 0]
    assert first == str(latents[best])
    assert "strongest at" not in pages[0].html  # the record does not know where
    assert "struck through" in pages[0].html


def test_what_an_estimator_has_wrongly_and_what_it_misses_are_told_apart():
    """Truth: latents 0 to 9 are the first. The gradient has 10 in place of 9."""
    record = example.influence(15, TOPK, 0, prompts=1)
    ranks = [*range(1, 10), 11, 10]
    record.series["influence/latents"] = {
        **{"prompt": [0] * 11, "latent": list(range(11)), "peak": [1] * 11},
        **{"effect": [1 - i / 11 for i in range(11)], "rank.effect": list(range(1, 12))},
        **{"grad_times_act": [1 - r / 11 for r in ranks], "rank.grad_times_act": ranks},
    }
    tokens = {"prompt": [0, 0], "position": [0, 1], "token": ["The", " <war>"]}
    record.series["influence/tokens"] = tokens
    record.series["influence/per_prompt"]["target_prob"] = [0.25]
    (page,) = pages_of(record)
    lines = re.findall(r"<tr>(.*?)</tr>", page.html, flags=re.S)
    marks = [re.findall(r'<td class="(first|false|missed)"', line) for line in lines]
    assert marks[1:10] == [["first", "first"]] * 9
    assert marks[10] == ["first", "missed"] and marks[11] == ["false"]
    assert '<span class="peak" title="position 1"> &lt;war&gt;</span>' in page.html
    assert "p = .25" in page.html or "p = 0.25" in page.html


def test_the_list_is_by_task_and_sae_with_the_record_that_asked_most_first():
    few, many = (example.influence(15, TOPK, 0, prompts=n) for n in (1, 2))
    early = example.influence(7, TOPK, 0, prompts=1)
    for record, n in ((few, 5), (many, 100), (early, 25)):
        record.n["influence/prompts"] = n
    records = [samples(), few, early, many]
    html = index([(cell_of(record), pages_of(record)) for record in records])
    assert re.findall("<h2>(.*?)</h2>", html) == ["influence", "steering"]
    links = re.findall(r'href="(\w+)-(?:prompt|sample)-\d+.html"', html)
    assert links[:4] == [early.id, many.id, many.id, few.id]
    assert f"100 prompts, {many.id}" in html and "resid_post.7, TopK" in html


def test_a_question_is_listed_by_what_it_asks():
    record = masking.masking(15, TOPK, 0)
    record.series["masking/questions"]["text"][0] = "Question: Who?\nPal has a cat.\nResult = [["
    (page,) = pages_of(record)
    answer = record.series["masking/questions"]["answer"][0]
    assert page.about == f"Question: Who? {answer}"


def test_a_long_prompt_is_listed_by_its_last_whole_words():
    record = samples()
    long = (
        "It is to be hoped that a sense of justice\nwill soon induce a settlement of these claims"
    )
    prompts = record.series["steering/samples"]["prompt"]
    record.series["steering/samples"]["prompt"] = [long, long, prompts[2]]
    first, second = (page.about for page in pages_of(record))
    assert first == "... of justice will soon induce a settlement of these claims"
    assert second == "A tax"


def test_other_tasks_have_no_pages():
    assert pages_of(example.recovery(example.TOY, TOPK, 0, (0.9, 0.5), 20)) == []
    assert pages_of(example.steering(TOPK, 0)) == []  # an old record, without prompts


def test_the_command_writes_pages_and_their_list(tmp_path, monkeypatch, capsys):
    save(masking.masking(15, TOPK, 0), tmp_path / "records")
    out = tmp_path / "out"
    words = ["pages", "--records", str(tmp_path / "records"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    command.main()
    (page,) = pages_of(masking.masking(15, TOPK, 0))
    assert (out / page.file).read_text() == page.html
    assert page.file in (out / "index.html").read_text()
    assert "1 pages" in capsys.readouterr().out
    assert index([(cell_of(masking.masking(15, TOPK, 0)), [page])]).count("<li>") == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(sys, "argv", ["pages", "--records", str(empty)])
    with pytest.raises(UserError, match="no records of masking, influence or steering"):
        command.main()
