"""W&B is a mirror: an offline run is a real one, "none" is silent, and failures are clear."""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from example_records import record as example

from gradsae.bench import tracking
from gradsae.bench.experiment import _mirror
from gradsae.bench.tracking import MAX_KEYS, MAX_ROWS, NoRun, Run, Tracking, mode_now

CONF = Path(__file__).parents[1] / "conf" / "tracking"


def start(tracking: Tracking, run_id: str = "0123456789abcdef") -> Run:
    return tracking.start(
        name="TopK K=20",
        group="gba_toy",
        tags=["topk", "two_sparsity"],
        job_type="recovery",
        run_id=run_id,
        config={"trainer": {"name": "topk", "k": 20}},
    )


def frames(path: Path) -> Iterator[bytes]:
    """The LevelDB-style log: a 7-byte head, 32 KiB blocks of (crc32, length, type, data)."""
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        piece = data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield part + piece if kind == 4 else piece
            part = b""
        else:
            part = piece if kind == 2 else part + piece


def messages(path: Path) -> list[Any]:
    """All protobuf records of a finished run; W&B's writer may lag behind `finish`."""
    schema: Any = import_module("wandb.proto.wandb_internal_pb2")
    for _ in range(200):
        found = [schema.Record.FromString(frame) for frame in frames(path)]
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.05)
    raise AssertionError(f"no end in {path}")


def read_back(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any], Any]:
    """History rows, summary and the run message of one .wandb file."""
    history, summary, run = [], {}, None
    for record in messages(path):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            items = record.history.item
            history.append(
                {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
            )
        elif kind == "summary":
            items = record.summary.update
            summary |= {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
        elif kind == "run":
            run = record.run
    return history, summary, run


@pytest.mark.parametrize("mode", ["offline", "online", "none"])
def test_each_config_file_builds_its_mode(mode: str):
    values = yaml.safe_load((CONF / f"{mode}.yaml").read_text())
    assert values.pop("_target_") == "gradsae.bench.tracking.Tracking"
    assert values.pop("dir") == "${results}"  # beside the records, wherever those go
    assert Tracking(**values) == Tracking(mode=mode)  # type: ignore[arg-type]


def test_a_misspelt_mode_and_an_empty_project_are_refused():
    with pytest.raises(Exception, match="ofline"):
        Tracking(mode="ofline")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name of a project"):
        Tracking(project="")


def test_none_imports_no_wandb_and_writes_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would now fail
    with start(Tracking(mode="none", dir=str(tmp_path))) as run:
        run.log(0, {"train/fvu": 1.0})
        run.table("t", ["a"], [[1]])
        run.summary({"recovery/mcc": 0.5})
        run.finish()
    assert list(tmp_path.iterdir()) == []


def test_an_offline_run_can_be_read_back(tmp_path: Path, capfd):
    with start(Tracking(mode="offline", dir=str(tmp_path))) as run:
        for step in range(3):
            run.log(step, {"train/fvu": 1 / (step + 1), "train/l0": 20})
        run.table("steering/samples", ["before", "after"], [["a", "b"]])
        run.summary({"recovery/mcc": 0.5})
    (folder,) = (tmp_path / "wandb").glob("offline-run-*-0123456789abcdef")
    history, summary, about = read_back(folder / "run-0123456789abcdef.wandb")
    curve = [(row["_step"], row["train/fvu"]) for row in history if "train/fvu" in row]
    assert curve == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert summary["recovery/mcc"] == 0.5
    assert (about.run_id, about.run_group, about.job_type) == (
        *("0123456789abcdef", "gba_toy", "recovery"),
    )
    assert set(about.tags) == {"topk", "two_sparsity"}
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    assert config["trainer"] == {"name": "topk", "k": 20}
    assert capfd.readouterr() == ("", "")


def test_two_jobs_of_a_sweep_in_one_process_stay_apart(tmp_path: Path):
    for run_id in ("aaaa", "bbbb"):
        with start(Tracking(mode="offline", dir=str(tmp_path)), run_id) as run:
            run.log(0, {f"train/{run_id}": 1.0})
            run.finish()  # again on exit: does nothing
    for run_id, other in (("aaaa", "bbbb"), ("bbbb", "aaaa")):
        (path,) = tmp_path.rglob(f"run-{run_id}.wandb")
        history, _, _ = read_back(path)
        keys = {key for row in history for key in row}
        assert f"train/{run_id}" in keys
        assert f"train/{other}" not in keys


def test_per_latent_scalars_and_endless_tables_are_refused():
    scores = {f"latent/{i}": 0.0 for i in range(MAX_KEYS + 1)}
    with pytest.raises(ValueError, match=r"201 scalars .* use a table"):
        NoRun().log(0, scores)
    with pytest.raises(ValueError, match="201 scalars"):
        NoRun().summary(scores)
    with pytest.raises(ValueError, match=r"10001 rows.*sample it"):
        NoRun().table("t", ["a"], [[0]] * (MAX_ROWS + 1))


def test_online_without_a_key_is_kept_offline_and_said(tmp_path: Path, monkeypatch, capfd):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with start(Tracking(mode="online", dir=str(tmp_path))) as run:
        run.summary({"recovery/mcc": 0.5})
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
    assert "no API key here: this run is kept offline" in one_line(capfd)


def one_line(capfd) -> str:
    """Return the only line that was said."""
    out, err = capfd.readouterr()
    (line,) = (out + err).splitlines()
    return line


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capfd):
    (tmp_path / "taken").write_text("")
    with start(Tracking(mode="offline", dir=str(tmp_path / "taken"))) as run:
        run.log(0, {"train/fvu": 1.0})
    assert "this run is not mirrored: cannot write to " in one_line(capfd)


def test_wandbs_folders_are_tried_once_a_process(tmp_path: Path, monkeypatch):
    tried: list[Path] = []
    monkeypatch.setattr(tracking, "check_writable", lambda folder: tried.append(Path(folder)))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    tracking._is_writable.cache_clear()
    for cell in range(3):
        tracking._find_homes(tmp_path / str(cell))
    tracking._is_writable.cache_clear()
    default = [tmp_path / ".cache" / "wandb", tmp_path / ".config" / "wandb"]
    assert tried == [*default, tmp_path / "data"]


def test_a_folder_of_wandb_that_cannot_be_written_is_replaced_in_every_cell(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "file"))
    for cell in ("a", "b"):
        tracking._find_homes(tmp_path / cell)
        assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "a" / "cache")
    assert (tmp_path / "a" / "cache").is_dir()


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({"WANDB_MODE": "disabled"}, "none"),
        ({"WANDB_DISABLED": "true"}, "none"),
        ({"WANDB_DISABLED": "true", "WANDB_MODE": "online"}, "none"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_DISABLED": "false"}, "offline"),
        ({}, "offline"),
    ],
)
def test_wandbs_variables_ask_for_a_mode(variables: dict[str, str], mode: str, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert mode_now("offline") == mode
    assert mode_now("none") == "none"


def test_what_is_no_mode_of_wandb_is_said_and_ignored(monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "offlne")
    assert mode_now("offline") == "offline"
    assert "offlne" in one_line(capfd)


BROKEN = {
    "a home that is no folder": {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache"},
    "a setting that is no number": {"WANDB_INIT_TIMEOUT": "soon", "WANDB_START_METHOD": "x"},
    "a folder that is a device": {"WANDB_DIR": "/dev/null", "WANDB_CACHE_DIR": "/dev/null"},
    "no service": {"WANDB_SERVICE": "2-0-tcp-localhost-1"},
}


@pytest.mark.parametrize("variables", BROKEN.values(), ids=BROKEN)
def test_a_run_ends_well_whatever_surrounds_wandb(variables, tmp_path: Path):
    """In a process of its own, as W&B reads its surroundings when it is imported."""
    done = track_apart(tmp_path, "pass", **variables)
    assert (done.returncode, done.stdout) == (0, "the run is over\n"), done.stderr
    assert len(done.stderr.splitlines()) <= 1, done.stderr


def test_a_run_ends_well_when_the_process_of_wandb_is_killed(tmp_path: Path):
    kill = "subprocess.run(['pkill', '-9', '-P', str(os.getpid())]); time.sleep(0.5)"
    done = track_apart(tmp_path, kill)
    assert (done.returncode, done.stdout) == (0, "the run is over\n"), done.stderr
    (line,) = done.stderr.splitlines()
    assert "the rest of this run is not mirrored" in line


def track_apart(folder: Path, between: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Track a short run in a process of its own, and do something in its middle."""
    code = f"""
        import os, subprocess, time
        from gradsae.bench import tracking
        tracking.PATIENCE = 20
        run = tracking.Tracking(dir={str(folder)!r}).start(
            name="x", group="x", tags=[], job_type="x", run_id="0123", config={{}})
        with run:
            run.log(0, {{"train/fvu": 1.0}})
            {between}
            for step in range(1, 200):
                run.log(step, {{"train/fvu": 1.0}})
            run.table("t", ["a"], [[1]])
            run.summary({{"recovery/mcc": 0.5}})
        print("the run is over")
    """
    command = [sys.executable, "-c", dedent(code)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    return subprocess.run(
        command, env={**environment, **variables}, capture_output=True, text=True, timeout=120
    )


def test_a_record_of_many_scores_is_mirrored_whole_and_stops_no_run():
    """The first ones as keys, all of them as a table: an influence table has hundreds."""
    seen: dict[str, Any] = {}

    class Watching(Run):
        def log(self, step: int, scores: Mapping[str, float | int]) -> None: ...

        def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
            seen[name] = rows

        def summary(self, scores: Mapping[str, float | int]) -> None:
            assert len(scores) <= MAX_KEYS
            seen["summary"] = scores

        def finish(self, failed: bool = False) -> None: ...

        def __exit__(self, *error: Any) -> None: ...

    scores = {f"influence/spearman/e{i}": i / 1000 for i in range(MAX_KEYS + 50)}
    _mirror(Watching(), example("influence", {}, {"name": "topk"}, 0, scores=scores))
    assert len(seen["summary"]) == MAX_KEYS
    assert dict(seen["scores"]) == scores
