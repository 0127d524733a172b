"""One record never stops a command: it is left out with its name and reason, the others stand."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import example_masking as masking
import example_records as example
import pytest
from fuzz import commands, limited
from test_run import command, records

import benchmarks.figures.__main__ as figures
from benchmarks.launch import report
from benchmarks.leaderboard.board import make_tables
from benchmarks.results import labels
from benchmarks.results.reading import Entry
from benchmarks.results.settings import make_settings
from benchmarks.results.tolerance import tolerant
from gradsae.errors import UserError
from gradsae.records.record import Record, load, load_folder, save, text
from gradsae.storage.sealed import CHECKSUM, checksum_of
from gradsae.training import checkpoints

TOPK = {"name": "topk", "k": 32}
GOOD = example.recovery(example.SUPERPOSITION, TOPK, 0, (0.9, 0.5), 20)
SAMPLES = {"selector": ["mean_act"], "latents": ["1"], "mode": ["set"], "dose": [2.0]}


def changed(change: Callable[[dict[str, Any]], Any]) -> str:
    """Return the file of a record after a change of its JSON, with the checksum of that."""
    data = json.loads(text(GOOD))
    del data[CHECKSUM]
    change(data)
    return json.dumps({**data, CHECKSUM: checksum_of(data)})


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


FILES: dict[str, tuple[str, str]] = {
    "a score of 401 digits": (
        changed(lambda d: d["scores"].update({"a/b": 10**400})),
        r"scores\[a/b\] is 1000.*64 bits",
    ),
    "a seed of 401 digits": (changed(lambda d: d["seeds"].update(init=10**400)), r"seeds\.init"),
    "a cell of 401 digits": (
        changed(lambda d: d["series"].update({"a/b": {"x": [10**400]}})),
        r"series\[a/b\]\.x\[0\].*64 bits",
    ),
    "a number of 5,000 digits": (
        changed(lambda d: d).replace('"dirty": false', f'"dirty": {"9" * 5000}'),
        "not valid JSON",
    ),
    "a float whose square is infinite": (
        changed(lambda d: d["scores"].update({"a/b": 1e200})),
        r"scores\[a/b\] is 1e\+200.*at most 1e\+100",
    ),
    "half a pair in a label": (
        changed(lambda d: d["config"].update(label="\ud800")),
        r"config\.label is '\\ud800'.*UTF-8",
    ),
    "half a pair in a cell": (
        changed(lambda d: d["series"].update({"a/b": {"x": ["\udfff"]}})),
        r"series\[a/b\]\.x\[0\].*UTF-8",
    ),
    "half a pair in a key": (
        changed(lambda d: d["provenance"].update({"\ud800": 1})),
        "a key of provenance is .*UTF-8",
    ),
    "deep nesting": (
        changed(lambda d: d["config"].update(x=nested(500))),
        r"config\.x.*nested at most 20 deep",
    ),
    "nesting beyond any stack": ("[" * 500_000, "nested too deeply"),
    "20 MB of text in a label": (
        changed(lambda d: d["config"].update(label="x" * 19_000_000)),
        "config.label is .*at most 20000 characters",
    ),
    "20 MB of anything": (" " * 20_000_001, "20,000,001 bytes"),
    "200,000 keys and one of them twice": (
        "{" + ",".join(f'"{i}":0' for i in range(200_000)) + ',"199999":1}',
        "the key '199999' is there twice",
    ),
    "10,000 scores": (
        changed(lambda d: d["scores"].update({f"a/b{i}": 0 for i in range(10_000)})),
        "number of scores is 10016; it must be at most 5000",
    ),
    "a checkpoint that is a path": (
        changed(lambda d: d["artifacts"].update(checkpoint="../../x")),
        r"artifacts\.checkpoint is '\.\./\.\./x'",
    ),
    "a list": ("[1]", "a record is a JSON object"),
    "an ANSI escape in a key": (
        changed(lambda d: d.update({"\x1b[31m": 1})),
        r"unknown key \?\[31m",
    ),
    "no text": ("", "not valid JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_left_out_with_its_name_and_reason(tmp_path: Path, name: str):
    content, reason = FILES[name]
    save(GOOD, tmp_path)
    (tmp_path / "hostile.json").write_text(content)
    with limited(20):
        found, (problem,) = load_folder(tmp_path)
    assert found == [GOOD]
    assert "hostile.json" in problem and "\x1b" not in problem and len(problem) < 600
    with pytest.raises(UserError, match=rf"(?s)hostile\.json: .*{reason}"):
        load(tmp_path / "hostile.json")


def strange_files(folder: Path) -> None:
    """Put into a folder what is no file of its own."""
    outside = folder.parent / "outside.json"
    outside.write_text(text(GOOD))
    (folder / "device.json").symlink_to("/dev/zero")
    (folder / "link.json").symlink_to(outside)
    (folder / "gone.json").symlink_to(folder / "nowhere")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "wrong\nname\x1b.json").write_text("{}")
    (folder / "linked_folder").symlink_to(folder.parent)
    (folder / "bad\nname").mkdir()


def test_links_pipes_devices_and_folders_are_left_out_by_every_reader(tmp_path: Path):
    folder = tmp_path / "records"
    for record in (GOOD, example.grid(TOPK, 100, "regret_grid"), example.grid(TOPK, 0, "regret")):
        save(record, folder)
    save(masking.masking(15, TOPK, 0), folder)
    strange_files(folder)
    names = ["device", "link", "gone", "loop", "folder", "pipe", "linked_folder"]
    calls = commands.quick(folder, tmp_path / "out")
    (tmp_path / "out").mkdir()
    with commands.elsewhere(folder, tmp_path / "out"):
        for name in ("board", "pages", "reproduce", "regret", "choose", "publish", "summary"):
            with limited(30):
                said = calls[name]()
            assert (name, said.status) == (name, 0), said.err
            inner = names[:-1] if name in ("publish", "summary") else names
            for file in inner:
                assert f"/{file}" in said.err, (name, file)
            assert "\x1b" not in said.err and "symbolic link" in said.err


def without_column(record: Record, series: str, column: str) -> Record:
    """Return another record of its kind (other seeds) in which a series lacks a column."""
    seeds = {**record.seeds, "world": 77}
    data = {**vars(record), "seeds": seeds, "id": ""}
    table = {name: cells for name, cells in record.series[series].items() if name != column}
    return Record(**{**data, "series": {**record.series, series: table}})


def test_a_series_without_a_column_takes_one_record_out_of_pages_and_regret(tmp_path: Path):
    good, grid = masking.masking(15, TOPK, 0), example.grid(TOPK, 100, "regret_grid")
    bad = without_column(good, "masking/questions", "answer")
    bad_grid = without_column(grid, "grid/scores", "is_default")
    for record in (good, grid, bad, bad_grid, example.grid(TOPK, 0, "regret")):
        save(record, tmp_path / "records")
    (tmp_path / "out").mkdir()
    calls = commands.quick(tmp_path / "records", tmp_path / "out")
    with commands.elsewhere(tmp_path / "records", tmp_path / "out"):
        said = calls["pages"]()
        assert said.status == 0 and f"{bad.id}, of the pages: it has no 'answer'" in said.err
        assert {path.name for path in (tmp_path / "out" / "pages").iterdir()} == {
            *(f"{good.id}-question-0.html", "index.html")
        }
        said = calls["regret"]()
        assert said.status == 0 and bad_grid.id in said.err and "'is_default'" in said.err
        assert "| TopK |" in said.out


def test_a_figure_is_drawn_without_the_one_setting_that_it_cannot_draw(tmp_path: Path, capsys):
    found = [example.grid(TOPK, seed, "regret_grid") for seed in (100, 101)]
    found += [example.grid(TOPK, seed, "regret") for seed in (0, 1, 2)]
    bad = without_column(example.grid({"name": "l1"}, 0, "regret"), "grid/scores", "recovery.mcc")
    entries = [Entry(record=r, path=Path(f"{r.id}.json"), origin="own") for r in [*found, bad]]
    written, problems = figures.draw_all(make_settings(entries), tmp_path, only="regret")
    assert ([each.name for each in written], problems) == (["regret"], [])
    said = capsys.readouterr().err
    assert f"record {bad.id}, of the figure regret: it has no 'recovery.mcc'" in said


@pytest.mark.parametrize("bad", [{0}, {99}, {3, 4}, {0, 50, 99}, set(range(10))])
def test_culprits_are_found_wherever_they_stand_and_nothing_else_is_left_out(bad: set[int], capsys):
    def make(items: Any) -> list[int]:
        if wrong := bad & set(items):
            raise KeyError(min(wrong))
        return list(items)

    assert tolerant(make, range(100), str, "here") == [i for i in range(100) if i not in bad]
    lines = capsys.readouterr().err.splitlines()
    assert {int(line.split(",")[0].removeprefix("left out: ")) for line in lines} == bad


def test_what_no_record_is_to_blame_for_is_raised_and_not_searched_for():
    calls = []

    def full(items: Any) -> None:
        calls.append(items)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        tolerant(full, [1, 2, 3], str, "here")
    assert len(calls) == 1
    with pytest.raises(ZeroDivisionError):  # a fault of the code fails on whatever is left
        tolerant(lambda items: 1 / 0, range(100), str, "here")


def test_a_version_that_is_not_known_here_does_not_hide_the_others(capsys):
    later = Record(**{**vars(GOOD), "task": {"name": "recovery", "version": 10**9}, "id": ""})
    entries = [Entry(record=r, path=Path("x.json"), origin="own") for r in (GOOD, later)]
    (kept,) = figures.newest_versions(make_settings(entries))
    assert kept.first == GOOD


def test_naming_and_ranking_a_world_of_many_settings_looks_at_each_a_few_times():
    """Each setting was once compared with each: 600 took 31 s."""
    found = [
        example.record(
            *("recovery", example.SUPERPOSITION, {"name": "topk", "k": 5, "x": i, "same": 1}, 0),
            scores={"recovery/mcc": 0.5},
        )
        for i in range(300)
    ]
    entries = [Entry(record=r, path=Path(f"{r.id}.json"), origin="alice") for r in found]
    with mock.patch.object(labels, "hyperparameters", wraps=labels.hyperparameters) as looked:
        (table,) = make_tables(make_settings(entries))
    assert len({row.line.label for row in table.rows}) == 300
    assert looked.call_count <= 3 * 300


def test_a_sweep_with_an_unforeseen_failure_prints_its_table_and_logs_the_traceback(
    monkeypatch, tmp_path, capsys
):
    train = checkpoints.get

    def fails_once(request: Any, **options: Any) -> Any:
        if request.seeds.init == 1:
            raise ZeroDivisionError("nobody expected this")
        return train(request, **options)

    monkeypatch.setattr(checkpoints, "get", fails_once)
    monkeypatch.setattr("gradsae.bench.experiment.due", lambda cell: [])
    assert command(monkeypatch, tmp_path, "-m", "seed=0,1,2", "report=table") == 1
    said = capsys.readouterr()
    assert len(records(tmp_path)) == 2
    assert "recovery, version 1" in said.out and "| 2" not in said.out
    assert "failed: ZeroDivisionError: nobody expected this; the traceback is in" in said.err
    assert "Traceback" not in said.err
    (log,) = [path for path in tmp_path.rglob("run.log") if path.stat().st_size]
    assert log.parent.name == "1" and "fails_once" in log.read_text()


def test_a_note_that_was_cut_short_and_a_damaged_record_do_not_stop_the_report(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(report, "failures", [])
    path = save(GOOD, tmp_path / "records")
    broken = tmp_path / "records" / "broken.json"
    broken.write_text("{")
    notes = [str(path), str(broken)]
    for i, name in enumerate(notes):
        (tmp_path / str(i)).mkdir()
        note = {"status": "done", "text": "", "record": name, "report": "table"}
        (tmp_path / str(i) / report.CELL).write_text(json.dumps(note))
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / report.CELL).write_text('{"status": "do')
    report._report(tmp_path)
    said = capsys.readouterr()
    assert GOOD.id in said.out
    assert (
        "left out: damaged record" in said.err and "what became of a cell is not known" in said.err
    )
    assert len(report.failures) == 1
