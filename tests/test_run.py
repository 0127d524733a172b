"""The main command, from its words to its records: cells, sweeps, skipping, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import run
from benchmarks.launch import report
from gradsae.records.record import load

ROOT = Path(__file__).parent.parent
TINY = [
    *("source=superposition", "source.n_features=12", "source.width=8", "source.l0=2"),
    *("d_sae=16", "k=2", "fit.steps=12", "fit.batch_size=64", "fit.init_rows=256"),
    *("fit.save_every=5", "tracking=none", "device=cpu"),
]


def with_tiny(words: tuple[str, ...]) -> list[str]:
    """Return the words, and those of TINY that they do not replace."""
    given = {word.split("=")[0] for word in words}
    tiny = [word for word in TINY if word.split("=")[0] not in given]
    if "source" in given:  # the fields of TINY are those of another one
        tiny = [word for word in tiny if not word.startswith("source.")]
    return [*words, *tiny]


def command(monkeypatch, results: Path, *words: str) -> int:
    """Run `python -m benchmarks.run` in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["run", *with_tiny(words), f"results={results}"])
    monkeypatch.setattr(report, "failures", [])
    monkeypatch.setattr(run, "failures", report.failures)
    try:
        run.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def records(results: Path):
    return [load(path) for path in sorted((results / "records").glob("*.json"))]


def test_a_cell_writes_one_record_and_prints_a_table_last(monkeypatch, tmp_path, capsys):
    assert command(monkeypatch, tmp_path) == 0
    (record,) = records(tmp_path)
    assert record.task == {"name": "recovery", "version": 1}
    assert {
        "recovery/frr_0.8",
        "recovery/mcc",
        "detection/f1",
        "reconstruction/fvu",
        "sparsity/l0",
    } <= set(record.scores)
    assert record.skipped["lm_loss"]
    assert record.id in capsys.readouterr().out.splitlines()[-1]


def test_a_done_cell_is_skipped_and_force_repeats_it(monkeypatch, tmp_path, capsys):
    command(monkeypatch, tmp_path)
    first = records(tmp_path)[0]
    capsys.readouterr()
    assert command(monkeypatch, tmp_path) == 0
    assert "found:" in capsys.readouterr().out
    assert records(tmp_path)[0].created == first.created
    assert command(monkeypatch, tmp_path, "force=true") == 0
    again = records(tmp_path)[0]
    assert again.id == first.id
    assert again.scores == first.scores


def test_an_sae_made_elsewhere_is_measured_like_one_trained_here(monkeypatch, tmp_path):
    command(monkeypatch, tmp_path / "here", "seed=3")
    (trained,) = records(tmp_path / "here")
    (folder,) = (tmp_path / "here" / "checkpoints").iterdir()
    words = ("trainer=pretrained", f"trainer.folder={folder}", "seed=3")
    assert command(monkeypatch, tmp_path / "there", *words) == 0
    (loaded,) = records(tmp_path / "there")
    assert loaded.scores == trained.scores
    assert str(tmp_path) not in json.dumps(loaded.config)
    assert len(loaded.config["trainer"]["sha256"]) == 64


def test_a_published_record_does_not_skip_local_work(monkeypatch, tmp_path):
    command(monkeypatch, tmp_path / "a")
    name = records(tmp_path / "a")[0].id
    assert not (tmp_path / "b" / "records" / f"{name}.json").exists()
    command(monkeypatch, tmp_path / "b")
    assert records(tmp_path / "b")[0].id == name


def test_a_sweep_makes_a_record_per_cell_and_goes_on_past_a_bad_one(monkeypatch, tmp_path, capsys):
    status = command(monkeypatch, tmp_path, "-m", "trainer=topk,gba,l1", "k=2,99")
    said = capsys.readouterr()
    assert status == 1
    assert said.err.count("error: trainer: k (with d_sae=16) must be a whole number") == 1
    assert {r.config["trainer"]["name"] for r in records(tmp_path)} == {"topk", "gba", "l1"}


def test_a_sweep_shares_one_stream_and_its_scores_are_those_of_single_cells(
    monkeypatch, tmp_path, capsys
):
    words = ("-m", "trainer=topk,gba,l1", "metric=[recovery]")
    assert command(monkeypatch, tmp_path / "shared", *words) == 0
    said = capsys.readouterr().out
    assert said.count("trained 3 of 3 SAEs (topk, gba, l1) on one stream") == 1
    assert command(monkeypatch, tmp_path / "basic", *words, "hydra/launcher=basic") == 0
    assert "on one stream" not in capsys.readouterr().out
    shared, basic = records(tmp_path / "shared"), records(tmp_path / "basic")
    assert len(shared) == 3
    assert [r.id for r in shared] == [r.id for r in basic]
    assert [r.scores for r in shared] == [r.scores for r in basic]
    assert [r.series for r in shared] == [r.series for r in basic]


def test_a_shared_sweep_trains_the_other_seeds_of_consistency_too(monkeypatch, tmp_path, capsys):
    words = ("task=consistency/pair", "trainer=topk,l1")
    assert command(monkeypatch, tmp_path, "-m", *words) == 0
    assert capsys.readouterr().out.count("trained 2 of 2 SAEs (topk, l1) on one stream") == 2
    assert len(records(tmp_path)) == 2


def test_a_forced_sweep_trains_anew(monkeypatch, tmp_path):
    words = ("-m", "trainer=topk,l1", "metric=[recovery]")
    assert command(monkeypatch, tmp_path, *words) == 0
    for path in (tmp_path / "checkpoints").rglob("sae.safetensors"):
        path.write_bytes(b"old")
    assert command(monkeypatch, tmp_path, *words, "force=true") == 0
    assert b"old" not in {p.read_bytes() for p in (tmp_path / "checkpoints").rglob("*.safetensors")}


def test_a_task_that_needs_a_model_says_so_and_writes_nothing(monkeypatch, tmp_path, capsys):
    assert command(monkeypatch, tmp_path, "task=influence") == 0
    assert "source superposition has no language model" in capsys.readouterr().out
    assert records(tmp_path) == []


def test_consistency_compares_the_seeds_and_reuses_their_checkpoints(monkeypatch, tmp_path):
    command(monkeypatch, tmp_path)
    assert command(monkeypatch, tmp_path, "task=consistency/pair") == 0
    kept = {r.task["name"]: r for r in records(tmp_path)}
    assert kept["consistency"].artifacts["checkpoint"] == kept["recovery"].artifacts["checkpoint"]
    assert "consistency/mcs_0.9" in kept["consistency"].scores
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_an_interrupted_sweep_keeps_its_done_cells_and_goes_on(monkeypatch, tmp_path, capsys):
    from gradsae.bench import experiment

    real, calls = experiment._measure, []

    def stop_at_the_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(experiment, "_measure", stop_at_the_second)
    assert command(monkeypatch, tmp_path, "-m", "seed=0,1") == 130
    assert "cells that were done are kept" in capsys.readouterr().err
    assert len(records(tmp_path)) == 1
    monkeypatch.setattr(experiment, "_measure", real)
    assert command(monkeypatch, tmp_path, "-m", "seed=0,1") == 0
    assert "found:" in capsys.readouterr().out
    assert len(records(tmp_path)) == 2


def test_a_damaged_record_is_named_and_stays(monkeypatch, tmp_path, capsys):
    command(monkeypatch, tmp_path)
    (path,) = (tmp_path / "records").glob("*.json")
    path.write_text(path.read_text()[:200])
    capsys.readouterr()
    assert command(monkeypatch, tmp_path) == 1
    assert f"damaged record {path}" in capsys.readouterr().err
    assert len(path.read_text()) == 200


def test_a_damaged_checkpoint_is_named(monkeypatch, tmp_path, capsys):
    command(monkeypatch, tmp_path)
    (weights,) = (tmp_path / "checkpoints").rglob("sae.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    assert command(monkeypatch, tmp_path, "seeds.eval=7") == 1
    assert "damaged weights" in capsys.readouterr().err


def test_a_corrupted_record_elsewhere_loses_nothing(monkeypatch, tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "junk.json").write_text("{")
    assert command(monkeypatch, tmp_path) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_results_folder_is_named(monkeypatch, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert command(monkeypatch, tmp_path / "r") == 1
    assert "cannot write" in capsys.readouterr().err


def test_a_results_folder_that_is_a_file_is_named(monkeypatch, tmp_path, capsys):
    (tmp_path / "r").write_text("")
    assert command(monkeypatch, tmp_path / "r", f"hydra.run.dir={tmp_path}/h") == 1
    assert f"cannot write to {tmp_path / 'r'}" in capsys.readouterr().err


def shell(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.run", *with_tiny(words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer=topkk"], "topkk"),
        (["lr=abc"], "lr must be a number above 0, got 'abc'"),
        (["trainer.kk=3"], "kk"),
        (["task=recover"], "Could not find 'task/recover'"),
        (["model=nosuch"], "nosuch"),
        (["device=tpu9"], "device must be auto, cpu or one that torch can use here, got 'tpu9'"),
        (["seed=-1"], "seeds.world must be a whole number from 0, got -1"),
        (["fit.steps=abc"], "fit.steps must be a whole number from 0, got 'abc'"),
    ],
)
def test_bad_words_get_one_clear_message(words, message, tmp_path):
    done = shell(*words, f"results={tmp_path}")
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_imports_nothing_heavy_but_torch():
    """Fields and defaults are those of the component classes, and these import torch."""
    code = (
        "import sys; sys.argv = ['run', '--help']\n"
        "import benchmarks.run\n"
        "try: benchmarks.run.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'transformers', 'wandb', 'datasets', 'numba'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "experiment=quickstart" in done.stdout


def test_offline_tracking_leaves_a_run_that_can_be_synced(monkeypatch, tmp_path):
    words = ("tracking=offline", f"tracking.dir={tmp_path}")
    assert command(monkeypatch, tmp_path, *words) == 0
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(folder.glob("run-*.wandb"))


def test_the_record_says_what_a_stranger_needs(monkeypatch, tmp_path):
    command(monkeypatch, tmp_path)
    text = (tmp_path / "records").glob("*.json").__next__().read_text()
    record = json.loads(text)
    assert record["provenance"]["versions"]["torch"] == torch.__version__
    assert record["seeds"] == {"world": 0, "data": 0, "init": 0, "eval": 0}
    assert record["cost"]["tokens"] == 12 * 64
    assert str(ROOT) not in text
    assert str(tmp_path) not in text
