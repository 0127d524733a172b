"""The board: ranks, controls and badges as the rules say, and a page that trusts no record."""

import csv
import html.parser
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import example_records as example
import pytest

from benchmarks.launch.command import command as run_command
from benchmarks.leaderboard import __main__ as command
from benchmarks.leaderboard import plain
from benchmarks.leaderboard.board import Table, make_tables
from benchmarks.leaderboard.page import render
from benchmarks.render.html import caption, environment
from benchmarks.results import reading
from benchmarks.results.reading import Entry
from benchmarks.results.settings import make_settings
from gradsae.errors import UserError
from gradsae.records.record import Record, save

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>|`x`"


def toy(mcc: list[float], name: str, **parts: Any) -> list[Record]:
    """One method on the superposition toy; a record per value of MCC."""
    return [
        example.record(
            *("recovery", example.SUPERPOSITION, {"name": name}, seed),
            scores={"recovery/mcc": value, "recovery/mcc/chance": 0.4 + seed / 100},
            **parts,
        )
        for seed, value in enumerate(mcc)
    ]


def tables_of(records: list[Record], origin: str = "own") -> list[Table]:
    return make_tables(make_settings(entries_of(records, origin)))


def entries_of(records: list[Record], origin: str) -> list[Entry]:
    return [Entry(record=r, path=Path(f"{r.id}.json"), origin=origin) for r in records]


def test_methods_that_their_intervals_do_not_set_apart_share_a_rank():
    # Half widths of the t intervals: 4.303 * 0.01 / sqrt(3) = 0.025 each, and 0.248 for "wide".
    records = toy([0.89, 0.90, 0.91], "good") + toy([0.88, 0.89, 0.90], "near")
    records += toy([0.69, 0.70, 0.71], "bad") + toy([0.60, 0.70, 0.80], "wide")
    (table,) = tables_of(records)
    ranks = {row.line.label: row.rank for row in table.rows}
    assert ranks == {"good": 1, "near": 1, "bad": 3, "wide": 1}


def test_controls_are_shown_behind_the_methods_and_never_ranked():
    records = toy([0.69, 0.70, 0.71], "topk") + toy([1.0, 1.0, 1.0], "ceiling")
    records += toy([0.31, 0.32, 0.33], "pca")
    (table,) = tables_of(records)
    shown = [(row.line.label, row.rank, row.unranked) for row in table.rows]
    assert shown == [
        ("TopK", 1, ""),
        ("true features, pursuit", None, "control"),
        ("PCA", None, "control"),
    ]


def test_under_three_seeds_a_row_is_shown_without_a_rank_and_says_why():
    (table,) = tables_of(toy([0.9, 0.9, 0.9], "three") + toy([0.99, 0.99], "two"))
    shown = [(row.line.label, row.rank, row.unranked) for row in table.rows]
    assert shown == [("three", 1, ""), ("two", None, "2 of 3 seeds")]


def test_chance_is_the_mean_over_the_records_of_the_table():
    (table,) = tables_of(toy([0.9, 0.9, 0.9], "topk") + toy([0.8], "l1"))
    assert table.chance["recovery/mcc"].mean == pytest.approx((0.40 + 0.41 + 0.42 + 0.40) / 4)


def test_influence_has_a_row_per_estimator_and_random_is_a_control():
    (table,) = tables_of([example.influence(15, {"name": "topk", "k": 32}, s) for s in range(3)])
    shown = [(row.line.variant, row.rank, row.unranked) for row in table.rows]
    assert shown[0][0] == "grad_times_act"
    assert shown[0][1:] == (1, "")
    assert shown[-1] == ("random", None, "control")
    assert len(shown) == 4


def test_a_record_of_consistency_brings_its_own_seeds():
    config = {"ask": {"others": [1001, 1002]}}
    record = example.record(
        *("consistency", {**example.SUPERPOSITION, **config}, {"name": "topk"}, 0),
        scores={"consistency/pw_mcc": 0.6},
        intervals={"consistency/pw_mcc": [0.5, 0.7]},
    )
    (table,) = tables_of([record])
    (row,) = table.rows
    assert (row.rank, row.line.setting.n_seeds) == (1, 3)


def test_a_layer_without_known_features_is_not_ranked():
    (table,) = tables_of([example.lm_recovery({"name": "topk", "k": 8}, s, 8, 0.4) for s in (0, 1)])
    assert table.ranked_by == ""
    assert "4-bit-rounded" in plain.markdown([table])
    assert {row.rank for row in table.rows} == {None}


def test_sources_and_task_versions_have_tables_of_their_own():
    records = toy([0.9], "topk")
    records.append(Record(**{**vars(records[0]), "id": "", "task": {**V2}}))
    records.append(example.recovery(example.TOY, {"name": "topk", "k": 20}, 0, (0.9, 0.5), 20))
    tables = tables_of(records)
    assert [(t.version, t.title.split(",")[0]) for t in tables] == [
        *((1, "superposition"), (2, "superposition"), (1, "two sparsities")),
    ]


V2 = {"name": "recovery", "version": 2}


def test_badges_tell_own_from_self_reported_and_reproduced():
    own = entries_of(toy([0.89, 0.90, 0.91], "topk"), "own")
    same = entries_of(toy([0.88, 0.89, 0.91], "topk"), "alice")
    off = entries_of(toy([0.98, 0.98, 0.99], "topk"), "mallory")
    new = entries_of(toy([0.5, 0.5, 0.5], "new"), "bob")
    (table,) = make_tables(make_settings([*own, *same, *off, *new]))
    assert {row.line.setting.origin: row.badge for row in table.rows} == {
        "own": "own",
        "alice": "reported by alice, reproduced",
        "mallory": "self-reported by mallory",
        "bob": "self-reported by bob",
    }


class Page(html.parser.HTMLParser):
    """Tags in order, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_text_of_a_record_never_becomes_markup(tmp_path: Path):
    provenance = {**example.PROVENANCE, "command": f"</code>{HOSTILE}", "cpu": HOSTILE}
    records = toy([0.9, 0.9, 0.9], HOSTILE, label=HOSTILE, provenance=provenance)
    tables = make_tables(make_settings(entries_of(records, HOSTILE)))
    page = Page(render(tables, [], tmp_path))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in [tag for tag, _ in page.tags]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert any("<script>alert(1)" in text for text in page.texts)


def test_captions_are_escaped_before_bold_and_code():
    assert caption("**a <b>** `c & d` e*") == (
        "<strong>a &lt;b&gt;</strong> <code>c &amp; d</code> e*"
    )
    link = environment().from_string('<a href="{{ at }}">{{ text }}</a>')
    assert link.render(at='"', text="<") == '<a href="&#34;">&lt;</a>'


def test_the_page_needs_no_network_and_allows_only_its_own_script(tmp_path: Path):
    text = render(tables_of(toy([0.9, 0.9, 0.9], "topk")), [], tmp_path)
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    assert "default-src 'none'" in text
    assert re.search(r"script-src 'sha256-[\w+/=]+'", text)


def test_tables_of_the_page_have_captions_scopes_and_sort_buttons(tmp_path: Path):
    text = render(tables_of(toy([0.9, 0.9, 0.9], "topk")), [], tmp_path)
    tags = Page(text).tags
    names = [tag for tag, _ in tags]
    assert names.count("caption") == names.count("table") == 1
    scopes = [attributes.get("scope") for tag, attributes in tags if tag == "th"]
    assert set(scopes) == {"col", "row"}
    assert names.count("button") == [a.get("aria-sort") for _, a in tags].count("none") > 5
    assert ("label", {"for": "filter"}) in tags


def test_links_to_records_are_relative_to_the_page(tmp_path: Path):
    (record,) = toy([0.9], "topk")
    entry = Entry(record=record, path=save(record, tmp_path / "records" / "a b"), origin="a b")
    text = render(make_tables(make_settings([entry])), [], tmp_path / "site")
    assert f'href="../records/a%20b/{record.id}.json"' in text


def test_csv_has_a_line_per_score_and_no_formula():
    text = plain.table_csv(tables_of(toy([0.89, 0.90, 0.91], "topk", label="=cmd()")))
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["method"], line["score"]) for line in lines] == [
        *(("'=cmd()", "recovery/mcc"), ("chance", "recovery/mcc")),
    ]
    assert float(lines[0]["mean"]) == pytest.approx(0.9)
    assert lines[0]["n"] == lines[0]["seeds"] == "3"
    assert lines[0]["interval_over"] == "seeds"


def test_markdown_cells_hold_no_markup_and_no_extra_columns():
    text = plain.markdown(tables_of(toy([0.9, 0.9, 0.9], "topk", label=HOSTILE)))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "<script>" not in text


def test_the_command_writes_page_csv_and_markdown_and_prints_the_board(
    tmp_path: Path, capsys, monkeypatch
):
    for record in toy([0.89, 0.90, 0.91], "topk"):
        save(record, tmp_path / "records")
    (tmp_path / "records" / "broken.json").write_text("{")
    out = tmp_path / "site"
    argv = ["x", "--records", str(tmp_path / "records"), "--out", str(out), "--no-figures"]
    monkeypatch.setattr("sys.argv", argv)
    assert run_command(command.main) == 0
    printed = capsys.readouterr()
    assert "0.900 ±0.025" in printed.out
    assert "left out: damaged record" in printed.err
    assert sorted(path.name for path in out.iterdir()) == ["board.csv", "board.md", "index.html"]


def test_no_records_is_one_clear_error(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "--records", str(tmp_path), "--out", str(tmp_path)])
    assert run_command(command.main) == 1
    assert "error: no records in " in capsys.readouterr().err
    with pytest.raises(UserError, match="must be local, published, both or a folder"):
        reading.read(str(tmp_path / "none"))


def test_a_published_record_hides_the_local_one_of_its_id(tmp_path: Path, monkeypatch):
    local, published = tmp_path / "local", tmp_path / "published"
    first, second = toy([0.9, 0.8], "topk")
    for record, folder in [(first, local), (second, local), (first, published)]:
        save(record, folder)
    save(first, published / "alice")
    monkeypatch.setattr(reading, "LOCAL", local)
    monkeypatch.setattr(reading, "PUBLISHED", published)
    found = [(entry.record.id, entry.origin) for entry in reading.read("both")]
    assert sorted(found) == sorted([(first.id, "own"), (first.id, "alice"), (second.id, "local")])


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to run the page in")
def test_columns_sort_by_value_with_controls_last_and_the_filter_hides_rows(tmp_path: Path):
    records = toy([0.89, 0.90, 0.91], "good") + toy([0.09, 0.10, 0.11], "bad")
    text = render(tables_of(records + toy([0.5], "single")), [], tmp_path)
    assert 'id="search" hidden' in text
    probe = """<script>
    const shown = () => [...document.querySelectorAll('tbody tr:not([hidden]) th')]
      .map((th) => th.textContent[0]).join('');
    const button = [...document.querySelectorAll('thead button')]
      .find((b) => b.textContent.startsWith('MCC'));
    const seen = [document.getElementById('search').hidden];
    button.click(); seen.push(shown(), button.closest('th').getAttribute('aria-sort'));
    button.click(); seen.push(shown(), button.closest('th').getAttribute('aria-sort'));
    field.value = 'GOOD'; field.dispatchEvent(new Event('input')); seen.push(shown());
    document.title = seen.join(' ');
    </script>"""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{probe}</body>"))
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    page = (tmp_path / "page.html").as_uri()
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", page], capture_output=True, text=True, timeout=120
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr
    assert title.group(1) == "false gsbc descending bsgc ascending g"


def test_steering_has_a_row_per_selector_although_its_main_score_also_stands_alone():
    record = example.steering({"name": "topk", "k": 8}, 0)
    scores = {**record.scores, "steering/effect": record.scores["steering/effect/grad_times_act"]}
    (table,) = tables_of([Record(**{**vars(record), "scores": scores})])
    labels = [row.line.label.partition(", TopK")[0] for row in table.rows]
    assert sorted(labels) == ["grad x act", "mean act", "random, matched"]
