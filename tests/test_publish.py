"""Only records that others can repeat are published, whole, once, and without local paths."""

from dataclasses import replace
from pathlib import Path

import example_records as example
import pytest

from benchmarks.launch.command import command as run_command
from benchmarks.publish import parse, publish
from gradsae.errors import UserError
from gradsae.records.record import Record, load, save

CLEAN = example.recovery(example.TOY, {"name": "topk", "k": 20}, 0, (0.9, 0.5), 20)
OTHER = example.recovery(example.TOY, {"name": "topk", "k": 30}, 0, (0.6, 0.2), 30)


def run(tmp_path: Path, *words: str) -> None:
    folders = ["--from", str(tmp_path / "local"), "--to", str(tmp_path / "published")]
    publish(parse([*words, *folders]))


def local(tmp_path: Path, *records: Record) -> None:
    for record in records:
        save(record, tmp_path / "local")


def published(tmp_path: Path) -> set[str]:
    return {path.stem for path in (tmp_path / "published").glob("*.json")}


def test_all_records_are_copied_and_a_second_time_changes_nothing(tmp_path: Path, capsys):
    local(tmp_path, CLEAN, OTHER)
    run(tmp_path, "--all")
    assert published(tmp_path) == {CLEAN.id, OTHER.id}
    assert load(tmp_path / "published" / f"{CLEAN.id}.json") == CLEAN
    assert "2 new, 0 replaced, 0 unchanged" in capsys.readouterr().out
    run(tmp_path, "--all")
    assert "0 new, 0 replaced, 2 unchanged" in capsys.readouterr().out


def test_ids_may_be_cut_short_and_an_unknown_one_is_an_error(tmp_path: Path):
    local(tmp_path, CLEAN, OTHER)
    run(tmp_path, CLEAN.id[:8])
    assert published(tmp_path) == {CLEAN.id}
    with pytest.raises(UserError, match="0 local records begin with zz"):
        run(tmp_path, "zz")


def test_an_experiment_is_published_by_name(tmp_path: Path):
    named = example.recovery(example.TOY, {"name": "gba"}, 0, (1, 1), 9, experiment="gba_toy")
    local(tmp_path, CLEAN, named)
    run(tmp_path, "--experiment", "gba_toy")
    assert published(tmp_path) == {named.id}
    with pytest.raises(UserError, match="no local record of experiment x; there is: example"):
        run(tmp_path, "--experiment", "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dirty": True}, "code was changed after its commit"),
        ({"commit": None, "dirty": None}, "commit is unknown"),
    ],
)
def test_records_of_changed_or_unknown_code_need_a_flag(tmp_path: Path, change, message):
    dirty = replace(OTHER, provenance={**OTHER.provenance, **change})
    local(tmp_path, CLEAN, dirty)
    with pytest.raises(UserError, match=f"(?s)nothing was published; 1 of 2 refused.*{message}"):
        run(tmp_path, "--all")
    assert published(tmp_path) == set()
    run(tmp_path, "--all", "--allow-dirty")
    assert published(tmp_path) == {CLEAN.id, OTHER.id}


def test_a_record_with_a_path_of_this_machine_is_refused(tmp_path: Path):
    provenance = {**CLEAN.provenance, "model": {"file": "/home/someone/model.gguf"}}
    local(tmp_path, replace(CLEAN, provenance=provenance))
    with pytest.raises(UserError, match=r"provenance names an absolute path.*/home/someone"):
        run(tmp_path, "--all", "--allow-dirty")


def test_a_damaged_record_is_left_out_and_an_error_where_it_was_named(tmp_path: Path, capsys):
    local(tmp_path, CLEAN)
    (tmp_path / "local" / "0000.json").write_text("{")
    with pytest.raises(UserError, match="damaged record"):
        run(tmp_path, "0000")
    assert published(tmp_path) == set()
    run(tmp_path, "--all")
    assert published(tmp_path) == {CLEAN.id}
    assert "left out: damaged record" in capsys.readouterr().err


def test_a_damaged_copy_and_a_link_in_its_place_are_replaced(tmp_path: Path):
    local(tmp_path, CLEAN)
    target = tmp_path / "published" / f"{CLEAN.id}.json"
    target.parent.mkdir()
    target.write_text("{")
    run(tmp_path, "--all")
    assert load(target) == CLEAN
    target.unlink()
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text("mine")
    target.symlink_to(elsewhere)
    run(tmp_path, "--all")
    assert load(target) == CLEAN and elsewhere.read_text() == "mine"


def test_nothing_to_publish_and_no_choice_are_clear(tmp_path: Path, capsys):
    with pytest.raises(UserError, match="no record in"):
        run(tmp_path, "--all")
    with pytest.raises(SystemExit):
        parse([])
    assert "one of the arguments" in capsys.readouterr().err


def test_a_user_error_is_a_message_and_a_non_zero_exit(capsys):
    def fails() -> None:
        raise UserError("this is wrong")

    assert run_command(fails) == 1
    assert capsys.readouterr().err == "error: this is wrong\n"
