"""Records are checked on the way in and out, and written whole or not at all."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.places import PUBLISHED
from gradsae.about import About, Score
from gradsae.errors import UserError
from gradsae.records import record as records
from gradsae.records.provenance import _command, reduce_paths
from gradsae.records.record import Record, load, load_folder, save
from gradsae.records.shapes import SCHEMA_VERSION
from gradsae.storage.sealed import CHECKSUM, checksum_of


def make(seed: int = 0, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "task": {"name": "recovery", "version": 1},
        "config": {
            "label": "TopK K=20",
            "source": {"name": "two_sparsity", "n": 128, "seed": seed},
            "trainer": {"name": "topk", "k": 20},
        },
        "seeds": {"world": seed, "data": seed, "init": seed, "eval": 0},
        "scores": {"recovery/mcc": 0.9, "sparsity/l0": 20},
        "intervals": {"recovery/mcc": [0.85, 0.95]},
        "n": {"recovery/mcc": 128},
        "skipped": {"lm/kl": "the source is not a language model"},
        "series": {"training/curve": {"step": [0, 1], "fvu": [1.0, 0.5]}},
        "cost": {"seconds": 1.5, "forward_equivalents": None, "tokens": 10, "peak_bytes": None},
        "provenance": {
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "versions": {"python": "3.11"},
            "device": "cpu",
            "command": "python -m benchmarks.run",
        },
    }
    return Record(**{**fields, **changes})


def damage(tmp_path: Path, change: Any) -> Path:
    """A record of a stranger, who seals what `change(data)` made of it."""
    data = asdict(make())
    change(data)
    if data.get("schema_version") == SCHEMA_VERSION:
        data[CHECKSUM] = checksum_of(data)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(data))
    return path


def test_a_saved_record_is_read_back_equal(tmp_path: Path):
    record = make()
    path = save(record, tmp_path / "new" / "folder")
    assert path.name == f"{record.id}.json"
    assert load(path) == record


def test_a_record_has_the_keys_of_the_contract():
    contract = {
        *("schema_version", "id", "created", "task", "config", "seeds", "scores", "intervals"),
        *("n", "skipped", "series", "cost", "provenance", "artifacts", "about"),
    }
    assert set(asdict(make())) == contract


def test_what_a_record_says_of_its_components_is_kept_and_does_not_shape_its_id(tmp_path: Path):
    about = {
        "method": asdict(About(label="TopK", family="topk")),
        "scores": {
            "recovery/mcc": asdict(
                Score(
                    name="recovery/mcc",
                    header="MCC",
                    better="higher",
                    low=0.0,
                    high=1.0,
                    meaning="mean cosine",
                )
            )
        },
        "variants": {"grad": asdict(About(label="gradient", is_control=True))},
    }
    record = make(about=about)
    assert record.id == make().id
    assert load(save(record, tmp_path)).about == about


def test_every_published_record_is_read_and_written_back_byte_for_byte(tmp_path: Path):
    paths = sorted(PUBLISHED.glob("*.json"))
    assert len(paths) >= 1219
    for path in paths:
        assert records.text(load(path)) == path.read_text()


def test_a_record_of_schema_1_is_written_without_what_schema_2_added(tmp_path: Path):
    path = save(make(schema_version=1), tmp_path)
    assert "about" not in json.loads(path.read_text())


@pytest.mark.parametrize("version", [1, 2])
def test_a_record_of_an_earlier_schema_has_no_checksum_and_is_read(version: int, tmp_path: Path):
    path = save(make(schema_version=version), tmp_path)
    assert "checksum" not in json.loads(path.read_text())
    assert records.text(load(path)) == path.read_text()
    assert load(path).id == make().id


def test_the_checksum_is_the_sha256_of_the_sorted_compact_rest(tmp_path: Path):
    data = json.loads(save(make(), tmp_path).read_text())
    *_, last = data
    checksum = data.pop(last)
    compact = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    assert (last, checksum) == ("checksum", hashlib.sha256(compact).hexdigest())


def test_one_changed_digit_anywhere_in_a_record_is_noticed(tmp_path: Path):
    path = save(make(), tmp_path)
    whole = path.read_text()
    digits = [i for i, letter in enumerate(whole) if letter.isdigit()]
    assert len(digits) > 100
    for i in digits:
        path.write_text(f"{whole[:i]}{(int(whole[i]) + 1) % 10}{whole[i + 1 :]}")
        with pytest.raises(UserError, match=f"damaged record {path}: "):
            load(path)


def test_a_record_that_was_changed_says_so_and_not_what_that_led_to(tmp_path: Path):
    path = save(make(), tmp_path)
    whole = path.read_text()
    for changed in (whole.replace("0.9,", "0.8,"), whole.replace('"data": 0', '"data": true')):
        path.write_text(changed)
        (problem,) = load_folder(tmp_path)[1]
        assert (
            "its content differs from its checksum" in problem and "run its cell again" in problem
        )
    path.write_text(whole)
    assert load_folder(tmp_path) == ([load(path)], [])


def test_a_checksum_cannot_be_dropped_by_calling_the_schema_an_earlier_one(tmp_path: Path):
    data = json.loads(save(make(), tmp_path).read_text())
    checksum = data.pop("checksum")
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="lacks the key checksum"):
        load(path)
    path.write_text(json.dumps(data | {"checksum": checksum, "schema_version": 2}))
    with pytest.raises(UserError, match="unknown key checksum"):
        load(path)


def test_a_record_that_is_spaced_and_ordered_otherwise_is_the_same(tmp_path: Path):
    data = json.loads(save(make(), tmp_path).read_text())
    path = tmp_path / "x.json"
    path.write_text(json.dumps(dict(reversed(data.items())), indent=8))
    assert load(path) == load(tmp_path / f"{data['id']}.json")


def test_readers_find_the_parts_of_a_config_by_name_and_a_part_that_is_absent_is_empty():
    setup = make().setup
    assert (setup.label, setup.trainer.name, setup.trainer.number("k")) == ("TopK K=20", "topk", 20)
    assert (setup.source.name, setup.source.site, setup.model.name) == ("two_sparsity", "", "")
    assert setup.trainer.number("name") is None
    assert setup.ask.settings is None


def test_numbers_of_numpy_that_are_floats_are_numbers_of_a_record(tmp_path: Path):
    series = {"a/b": {"x": [np.float64(0.25), 1]}}
    record = make(series=series, scores={"recovery/mcc": np.float64(0.5)})
    assert load(save(record, tmp_path)).series == {"a/b": {"x": [0.25, 1]}}
    with pytest.raises(UserError, match=r"series\[a/b\].x\[0\] is .*nan.*finite"):
        make(series={"a/b": {"x": [np.float64("nan")]}})


def test_the_rows_of_a_series_hold_each_column_by_name():
    assert make().rows("training/curve") == [{"step": 0, "fvu": 1.0}, {"step": 1, "fvu": 0.5}]
    assert make().rows("none/such") == []


def test_a_record_is_frozen():
    with pytest.raises(FrozenInstanceError):
        make().id = "x"  # type: ignore[misc]


def test_content_id_is_the_hash_of_sorted_compact_json():
    # printf '{"a":[1,2.5],"b":null}' | sha256sum
    expected = "f66b2c50ccae61e3"
    assert records.content_id({"b": None, "a": [1.0, 2.5]}) == expected


def test_the_id_ignores_bookkeeping_and_scores_but_not_the_config_or_the_seeds():
    record = make()
    config = {**record.config, "label": "other", "device": "cuda", "tracking": {"mode": "none"}}
    assert make(config=config).id == record.id
    assert make(scores={"recovery/mcc": 0.1, "sparsity/l0": 3}).id == record.id
    assert make(seed=1).id != record.id
    assert make(config={**record.config, "steps": 5}).id != record.id
    assert make(task={"name": "recovery", "version": 2}).id != record.id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("scores"), "lacks the key scores"),
        (lambda d: d.update(extra=1), "unknown key extra"),
        (lambda d: d.update(schema_version=4), "schema_version is 4; it must be 1, 2 or 3"),
        (lambda d: d.update(schema_version="1"), "schema_version is '1'"),
        (lambda d: d.update(schema_version=True), "schema_version is True"),
        (lambda d: d.update(id="0" * 16), "id is '0000000000000000'; it must be [0-9a-f]{16}"),
        (lambda d: d.update(created="yesterday"), "created is 'yesterday'; it must be a UTC time"),
        (lambda d: d.update(created="2026-01-01T00:00:00"), "must be a UTC time"),
        (lambda d: d.update(task="recovery"), "task is 'recovery'"),
        (lambda d: d["task"].update(version=0), "task.version is 0"),
        (lambda d: d["seeds"].pop("world"), "seeds lacks the key world"),
        (lambda d: d["seeds"].update(init="a"), "seeds.init is 'a'; it must be a whole number"),
        (lambda d: d["scores"].update({"recovery/mcc": "0.9"}), r"scores\[recovery/mcc\] is '0.9'"),
        (lambda d: d["scores"].update({"recovery/mcc": True}), r"scores\[recovery/mcc\] is True"),
        (lambda d: d["scores"].update({"mcc": 0.9}), "'mcc'; it must be kind/score"),
        (lambda d: d["scores"].update({"a/b/c/d": 1}), "'a/b/c/d'; it must be kind/score"),
        (lambda d: d["scores"].update({"a/<b>": 1}), "'a/<b>'; it must be kind/score"),
        (lambda d: d["scores"].update({"lm/kl": 1}), r"skipped\[lm/kl\]"),
        (lambda d: d["intervals"].update({"recovery/mcc": [1, 0]}), r"\[1, 0\].*low not above"),
        (
            lambda d: d["intervals"].update({"recovery/mcc": [1]}),
            r"\[1\]; it must be \[low",
        ),
        (lambda d: d["intervals"].update({"recovery/f1": [0, 1]}), "the name of a score"),
        (lambda d: d["n"].update({"recovery/mcc": 1.5}), r"n\[recovery/mcc\] is 1.5"),
        (lambda d: d["skipped"].update({"lm/ce": ""}), r"skipped\[lm/ce\].*reason"),
        (lambda d: d["series"]["training/curve"]["fvu"].pop(), "columns of one length"),
        (lambda d: d["series"].update({"a/b": {}}), r"series\[a/b\]"),
        (lambda d: d["series"].update({"a/b": {"x": [0] * 20_001}}), "20001; it must be at most"),
        (lambda d: d["series"].update({"a/b": {"x": [[1]]}}), r"series\[a/b\].x\[0\] is \[1\]"),
        (lambda d: d["series"].update({"a/b": {"x": ["y" * 4001]}}), "at most 4000 characters"),
        (lambda d: d["cost"].update(seconds=-1), "cost.seconds is -1"),
        (lambda d: d["provenance"].pop("commit"), "provenance lacks the key commit"),
        (lambda d: d["provenance"].update(commit="main"), "provenance.commit is 'main'"),
        (lambda d: d["provenance"].update(dirty="no"), "provenance.dirty is 'no'"),
        (lambda d: d["artifacts"].update(checkpoint=5), "artifacts.checkpoint is 5"),
        (
            lambda d: d["config"].update(trainer="topk"),
            "config.trainer is 'topk'; it must be an",
        ),
        (
            lambda d: d["config"]["source"].update(name=3),
            "config.source.name is 3; it must be a",
        ),
        (lambda d: d["provenance"].update(model=[1]), r"provenance.model is \[1\]"),
        (lambda d: d.update(about=[]), r"about is \[\]"),
        (lambda d: d.update(about={"trainer": {}}), "about has an unknown key trainer"),
        (lambda d: d.update(about={"method": {}}), "about.method lacks the key label"),
        (
            lambda d: d.update(about={"method": {"label": "x", "colour": "red"}}),
            "about.method has an unknown key colour",
        ),
        (
            lambda d: d.update(about={"variants": {"a": {"label": ["x"]}}}),
            r"about.variants\[a\].label is \['x'\]",
        ),
        (
            lambda d: d.update(about={"method": {"label": 5}}),
            "about.method.label is 5; it must be a text",
        ),
        (
            lambda d: d.update(about={"method": {"label": "x", "is_control": "no"}}),
            "about.method.is_control is 'no'; it must be true or false",
        ),
        (
            lambda d: d.update(
                about={"scores": {"a/b": {"name": "", "header": "", "meaning": "", "better": "up"}}}
            ),
            "better is 'up'; it must be 'higher', 'lower' or ''",
        ),
        (
            lambda d: d.update(about={"scores": {"a/b": {"name": "a/b"}}}),
            r"about.scores\[a/b\] lacks the key better, header, meaning",
        ),
        (
            lambda d: d.update(about={"method": {"label": "x" * 2001}}),
            "about.method.label is .*at most 2000 characters",
        ),
        (
            lambda d: d.update(schema_version=1, about={"method": {"label": "x"}}),
            "about is .*schema 1 has none",
        ),
    ],
)
def test_a_damaged_record_is_refused_with_its_file_and_field(tmp_path: Path, change, message):
    path = damage(tmp_path, change)
    with pytest.raises(UserError, match=f"(?s){path.name}.*{message}"):
        load(path)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, text: str):
    path = save(make(schema_version=2), tmp_path)  # its checksum would be noticed first
    path.write_text(path.read_text().replace('"recovery/mcc": 0.9', f'"recovery/mcc": {text}'))
    with pytest.raises(UserError, match="finite"):
        load(path)
    with pytest.raises(UserError, match=r"scores\[recovery/mcc\] is (nan|-?inf).*skipped"):
        make(scores={"recovery/mcc": float(text), "sparsity/l0": 1})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"id": 1, "id": 2}', "[1]", "\xff", '{"a": ' + "9" * 5000 + "}"],
)
def test_a_file_that_is_no_record_gives_one_clear_error(tmp_path: Path, text: str):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"damaged record .*x\.json"):
        load(path)


def test_a_missing_file_and_a_folder_in_its_place_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot read .*none\.json"):
        load(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path)


def test_a_damaged_record_is_reported_and_the_others_are_kept(tmp_path: Path):
    save(make(0), tmp_path)
    save(make(1), tmp_path)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "renamed.json").write_bytes((tmp_path / f"{make(0).id}.json").read_bytes())
    found, problems = load_folder(tmp_path)
    assert {record.id for record in found} == {make(0).id, make(1).id}
    assert len(problems) == 2
    assert "broken.json" in problems[0]
    assert f"must be {make(0).id}.json" in problems[1]


def test_a_missing_folder_holds_no_records(tmp_path: Path):
    assert load_folder(tmp_path / "none") == ([], [])


def test_a_full_disk_leaves_the_old_record_and_no_rest(tmp_path: Path, monkeypatch):
    path = save(make(), tmp_path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write record .*No space left on device"):
        save(replace(make(), scores={"recovery/mcc": 0.1, "sparsity/l0": 2}), tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="No space left"):
        records.check_writable(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_a_clear_error(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot write record"):
        save(make(), tmp_path / "taken")
    with pytest.raises(UserError, match="cannot write to"):
        records.check_writable(tmp_path / "taken")
    records.check_writable(tmp_path / "fine")
    assert list((tmp_path / "fine").iterdir()) == []


def test_rows_have_one_line_per_score():
    lines = records.rows([make()])
    assert [(line["score"], line["value"], line["low"], line["high"]) for line in lines] == [
        ("recovery/mcc", 0.9, 0.85, 0.95),
        ("sparsity/l0", 20, None, None),
    ]
    assert lines[0]["trainer"] == "topk"
    assert lines[0]["seed_init"] == 0
    assert lines[0]["n"] == 128


def test_records_that_differ_only_in_their_seeds_form_one_group():
    other = {**make().config, "trainer": {"name": "topk", "k": 30}}
    found = records.group_by_seed([make(2), make(0), make(1, config=other), make(1)])
    assert [[record.seeds["init"] for record in group] for group in found] == [[0, 1, 2], [1]]


def test_two_versions_of_a_task_are_never_mixed():
    both = [make(0), make(1, task={"name": "recovery", "version": 2})]
    assert len(records.group_by_seed(both)) == 2


def test_provenance_names_no_path_and_no_host():
    found = records.provenance("cpu", model={"note": "4-bit-rounded weights"})
    text = json.dumps(found)
    assert str(Path.cwd()) not in text
    assert os.uname().nodename not in text
    assert found.get("model") == {"note": "4-bit-rounded weights"}
    assert found["versions"]["numpy"]
    assert make(provenance=found).provenance == found


def test_a_commit_can_be_told_where_there_is_no_git(monkeypatch):
    monkeypatch.setenv("GRADSAE_COMMIT", "0123abc-dirty")
    found = records.provenance("cpu")
    assert (found["commit"], found["dirty"]) == ("0123abc", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source.file=/home/someone/data/x.txt", "source.file=x.txt"),
        ("[/a/b.txt,/c/d.txt]", "[b.txt,d.txt]"),
        ("source.site=resid_post.15/x", "source.site=resid_post.15/x"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("~/models/llama", "llama"),
        ("../there", "../there"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(text: str, expected: str):
    assert reduce_paths(text) == expected


def test_the_command_can_be_typed_again():
    root = Path("/home/someone/gradsae")
    argv = [f"{root}/benchmarks/run.py", "-m", "trainer=topk,l1", "seed=0,1", "note=a b"]
    assert _command(argv, root) == "python -m benchmarks.run -m trainer=topk,l1 seed=0,1 'note=a b'"
    assert (
        _command([f"{root}/benchmarks/figures/__main__.py"], root) == "python -m benchmarks.figures"
    )


def test_the_commit_is_asked_of_the_folder_that_is_told_and_of_no_other(tmp_path: Path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    (tmp_path / "gradsae").mkdir()
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert records.provenance("cpu")["commit"] is None
    found = records.provenance("cpu", tmp_path)
    assert (found["commit"], found["dirty"]) == (head.stdout.strip(), False)
    (tmp_path / "gradsae" / "changed.py").write_text("x = 1")
    assert records.provenance("cpu", tmp_path)["dirty"] is True
    below = records.provenance("cpu", tmp_path / "gradsae")
    assert below["commit"] is None  # not the top of a checkout


def test_records_are_read_without_torch_or_scipy():
    code = "import sys, gradsae.records.record; print({'torch', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
