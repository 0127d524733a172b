"""A sweep ends with a page that shows it; nothing about the page can make the run fail."""

import json
from pathlib import Path

import example_records as example
import pytest

from benchmarks.launch import report, site
from benchmarks.render.html import environment
from benchmarks.results.reading import LOCAL_ORIGIN, Entry
from gradsae.records.record import Record, save
from gradsae.tables.printing import Markdown, markdown_table

TOPK = {"name": "topk", "k": 32}
HOSTILE = "<script>alert(1)</script>"


def noted(folder: Path, records: list[Record], choice: str = "page") -> None:
    """Save records, and the notes that the jobs of a sweep would leave of them."""
    for i, record in enumerate(records):
        path = save(record, folder / "records")
        note = {"status": "done", "text": "", "record": str(path), "report": choice}
        (folder / str(i)).mkdir()
        (folder / str(i) / report.CELL).write_text(json.dumps(note))


@pytest.fixture
def records() -> list[Record]:
    label = {"label": HOSTILE}
    found = [example.recovery(example.SUPERPOSITION, TOPK, seed, (0.9, 0.8), 4) for seed in (0, 1)]
    return [*found, example.recovery(example.TOY, TOPK, 0, (0.9, 0.8), 4, **label)]


def test_a_sweep_ends_with_the_path_of_a_page_with_its_tables_figures_and_board(
    tmp_path: Path, records: list[Record], capsys: pytest.CaptureFixture[str]
):
    noted(tmp_path, records)
    report._report(tmp_path)
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    page = tmp_path / "site" / "index.html"
    assert last == f"open {page}"
    text = page.read_text()
    assert "3 records" in text and "recovery, version 1, on superposition" in text
    assert text.count("<figure>") > 1 and "data:image/svg+xml;base64," in text
    assert (tmp_path / "site" / "board.html").exists() and 'href="board.html"' in text
    assert "prompts/index.html" not in text  # no record here has prompts
    assert HOSTILE not in text and "&lt;script&gt;alert(1)" in text


def test_prompts_of_a_sweep_have_pages_that_its_page_leads_to(tmp_path: Path):
    record = example.influence(15, TOPK, 0, prompts=3)
    entry = Entry(record=record, path=save(record, tmp_path / "records"), origin=LOCAL_ORIGIN)
    page, problems = site.write_site([entry], ["a <b>message"], tmp_path / "site")
    assert problems == []
    assert 'href="prompts/index.html"' in page.read_text()
    assert "a &lt;b&gt;message" in page.read_text()
    listed = (page.parent / "prompts" / "index.html").read_text()
    files = list((page.parent / "prompts").glob("*-prompt-*.html"))
    assert len(files) == 3 and all(file.name in listed for file in files)


def test_a_page_that_fails_is_one_line_and_no_failure(
    tmp_path: Path,
    records: list[Record],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    def broken(*_: object) -> None:
        raise RuntimeError("no font")

    noted(tmp_path, records)
    monkeypatch.setattr(site, "draw_all", broken)
    monkeypatch.setattr(report, "failures", [])
    report._report(tmp_path)
    said = capsys.readouterr()
    assert said.err.splitlines() == ["no page was written: RuntimeError: no font"]
    assert "MCC" in said.out and report.failures == []


def test_a_page_is_written_for_sweeps_only_and_not_where_it_is_not_wanted(
    tmp_path: Path, records: list[Record], capsys: pytest.CaptureFixture[str]
):
    for name, some, choice in (("single", records[:1], "page"), ("table", records, "table")):
        (tmp_path / name).mkdir()
        noted(tmp_path / name, some, choice)
        report._report(tmp_path / name)
        assert "MCC" in capsys.readouterr().out
        assert not (tmp_path / name / "site").exists()


def test_every_template_escapes():
    for name in environment().list_templates(["j2"]):
        source = (environment().loader.searchpath[0] / Path(name)).read_text()  # type: ignore
        assert "safe" not in source and "autoescape" not in source


def test_a_markdown_table_has_a_rule_and_single_blanks_in_empty_cells():
    assert markdown_table(["a", "b"], [[Markdown("**x**"), ""], ["1", "2"]]) == (
        "| a | b |\n| --- | --- |\n| **x** | |\n| 1 | 2 |"
    )
