"""Two processes on one folder: one works, the other waits or does something else."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_run import ROOT, TINY

from gradsae.storage import lease as leases
from gradsae.storage.files import replacing
from gradsae.storage.lease import Lease, holder_of, holding, is_held, working_alone
from gradsae.storage.process import is_gone, machine, new_tag

TAKE = """
import sys, time
from pathlib import Path
from gradsae.storage.lease import Lease
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
print(Lease(Path(sys.argv[1])).take(), flush=True)
time.sleep(60)
"""


def other(path: Path, start: Path) -> "subprocess.Popen[str]":
    """Start a process that takes a lease when `start` is there, and then sleeps."""
    words = [sys.executable, "-c", TAKE, str(path), str(start)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def stop(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_of_many_processes_one_gets_the_lease_and_it_is_free_when_that_one_is_killed(tmp_path):
    path, start = tmp_path / "leases/x", tmp_path / "start"
    processes = [other(path, start) for _ in range(5)]
    try:
        time.sleep(0.5)
        start.write_text("")
        answers = [said(process) for process in processes]
        assert sorted(answers) == ["False"] * 4 + ["True"]
        assert is_held(path) and not Lease(path).take()
        winner = processes[answers.index("True")]
        assert holder_of(path).startswith(f"process {winner.pid} on ")
        stop(winner)
        assert not is_held(path)
        mine = Lease(path)
        assert mine.take() and not Lease(path).take()
        mine.give_back()
        assert list(path.parent.iterdir()) == []
    finally:
        for process in processes:
            stop(process)


def foreign(path: Path) -> None:
    """Write the lease of a process of another machine."""
    tag = f"{'0' * 8}-1-{'0' * 8}"
    path.write_text(json.dumps({"tag": tag, "host": "elsewhere", "pid": 1}))


def test_a_lease_of_another_machine_is_taken_over_when_it_was_not_renewed(tmp_path, monkeypatch):
    path, now = tmp_path / "x", [1000.0]
    monkeypatch.setattr(leases, "monotonic", lambda: now[0])
    foreign(path)
    assert is_held(path)
    now[0] += 119
    assert is_held(path)
    os.utime(path, (5, 5))  # renewed, whatever the other clock says
    now[0] += 119
    assert is_held(path)
    now[0] += 119
    assert is_held(path)
    now[0] += 2
    assert not is_held(path) and not path.exists()


def test_a_lease_that_changed_hands_meanwhile_is_not_broken(tmp_path):
    path = tmp_path / "x"
    foreign(path)
    leases._break(path, "the tag that was stale")
    assert is_held(path)
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_whoever_holds_a_lease_holds_it_again_within(tmp_path):
    path = tmp_path / "x"
    with holding(path):
        with holding(path):
            assert path.exists()
        assert path.exists()
    assert not path.exists()


def test_a_lease_that_cannot_be_written_stops_no_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with holding(tmp_path / "file/x"):
        done = True
    assert done and (tmp_path / "file").read_text() == "in the way"


class NoLocks:
    """A file system without locks, as filelock meets it."""

    def __init__(self, path: Path) -> None: ...

    def __enter__(self) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize("has_locks", [True, False])
def test_work_of_another_machine_is_waited_for_with_and_without_locks(
    tmp_path, monkeypatch, has_locks
):
    if not has_locks:
        monkeypatch.setattr(leases, "FileLock", NoLocks)
    foreign(tmp_path / ".x.lock.lease")
    waits: list[float] = []

    def give_back(seconds: float) -> None:
        waits.append(seconds)
        (tmp_path / ".x.lock.lease").unlink()

    monkeypatch.setattr(leases, "sleep", give_back)
    with working_alone(tmp_path / ".x.lock"):
        assert len(waits) == 1 and (tmp_path / ".x.lock.lease").exists()
    assert not (tmp_path / ".x.lock.lease").exists()


def test_two_threads_never_work_at_once(tmp_path):
    inside: list[int] = []

    def work(i: int) -> int:
        with working_alone(tmp_path / ".x.lock"):
            inside.append(i)
            time.sleep(0.02)
            n = len(inside)
            inside.remove(i)
        return n

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [1] * 4


def test_a_process_that_ended_is_known_by_its_tag_and_others_are_not():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert is_gone(f"{machine()}-{ended.pid}-00000000")
    assert not is_gone(new_tag())
    assert not is_gone(f"{'0' * 8}-{ended.pid}-00000000")
    assert not is_gone("anything else")


def test_two_processes_never_write_into_one_unfinished_file(tmp_path):
    target = tmp_path / "x.json"
    with replacing(target) as mine, replacing(target) as theirs:
        mine.write_text("mine")
        theirs.write_text("theirs")
        assert mine != theirs
    assert target.read_text() == "mine"  # the block that ended last
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_what_an_ended_process_left_unfinished_is_removed_and_that_of_others_stays(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f"x.json.{machine()}-{ended.pid}-00000000.partial").write_text("half")
    running = tmp_path / f"x.json.{new_tag()}.partial"
    running.write_text("half")
    with replacing(tmp_path / "x.json") as fresh:
        fresh.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "x.json", running])


def test_two_identical_sweeps_do_each_cell_once_and_end_alike(tmp_path):
    words = ["-m", "trainer=topk,l1", "seed=0,1", "report=table", *TINY, f"results={tmp_path}"]
    run = [sys.executable, "-m", "benchmarks.run", *words]
    processes = [
        subprocess.Popen(run, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    texts = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    lines = [line for text in texts for line in text.splitlines()]
    n_done, n_found = (sum(line.startswith(word) for line in lines) for word in ("done:", "found:"))
    assert (n_done, n_found) == (4, 4)
    assert len(list((tmp_path / "records").iterdir())) == 4
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4
    assert list((tmp_path / "leases").iterdir()) == []
    assert not [path for path in tmp_path.rglob("*.partial")]
