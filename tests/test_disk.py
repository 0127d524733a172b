"""A disk that is full, or a folder that cannot be written: one message, and nothing is lost.

A limit on the size of files stands in for a full disk: it needs no rights, and the system refuses
a write in the middle of a file just so.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from test_run import command, records

from benchmarks.launch.command import Unread
from benchmarks.launch.command import command as ended
from gradsae.errors import UnwritableError, UserError
from gradsae.sources.corpora import Corpus
from gradsae.storage.cache import cache_root, cached_folder
from gradsae.storage.fetch import Wheel, _pip_failed
from gradsae.storage.files import check_writable, expanded, write_whole, writing_below
from gradsae.storage.lease import Lease

FASTER = ("metric=[recovery]", "report=table")
MESSAGE = "error: cannot write "


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "partial" in path.name or "probe" in path.name]


@pytest.fixture(scope="module")
def scores(tmp_path_factory) -> dict[str, dict[str, float]]:
    """Of the cells of seeds 0 and 1, by id."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        assert command(patch, folder, "-m", "seed=0,1", *FASTER) == 0
    return {record.id: dict(record.scores) for record in records(folder)}


@pytest.mark.parametrize(
    ("n_bytes", "where", "words"),
    [
        (0, "Hydra's first file", ("seed=0",)),
        (2_500, "another file of Hydra's", ("-m", "seed=0,1")),
        (4_500, "the state of a training", ("seed=0",)),
        (6_000, "the record", ("-m", "seed=0,1")),
        (6_000, "the record", ("seed=0",)),
    ],
)
def test_a_full_disk_is_one_message_and_the_same_command_goes_on(
    monkeypatch, tmp_path, capsys, scores, words, n_bytes, where
):
    with files_of_at_most(n_bytes):
        assert command(monkeypatch, tmp_path, *words, *FASTER) == 1, where
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(MESSAGE)
    assert "File too large" in line and "Make room there" in line and "same command" in line
    assert not unfinished(tmp_path)
    assert command(monkeypatch, tmp_path, *words, *FASTER) == 0
    got = {record.id: dict(record.scores) for record in records(tmp_path)}
    assert got.items() <= scores.items() and len(got) == len(words)


def test_a_note_that_cannot_be_written_keeps_the_record(monkeypatch, tmp_path, capsys):
    def full(path: Path, text: str) -> None:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr("benchmarks.run.write_whole", full)
    assert command(monkeypatch, tmp_path, *FASTER) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(MESSAGE + "the note of a cell to ")
    assert len(records(tmp_path)) == 1


def test_results_that_are_a_file_are_named_and_left_alone(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert command(monkeypatch, tmp_path / "file", *FASTER) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'file'} is no folder" in line and "results=" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["a file", "a file above it", "a broken link"])
def test_a_cache_that_cannot_be_made_is_named_with_what_stands_there(tmp_path, kind):
    place = tmp_path / "cache"
    if kind == "a broken link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.write_text("")
    target = place / "a" / "b" if kind == "a file above it" else place / "b"
    with pytest.raises(UserError, match=f"{place} is no folder.*GRADSAE_CACHE"):
        cached_folder(target, lambda work: {})


def test_a_full_cache_leaves_nothing_behind_and_is_filled_afterwards(tmp_path):
    def build(work: Path) -> dict[str, str]:
        (work / "data").write_bytes(bytes(5_000))
        return {"made": "here"}

    with files_of_at_most(4_096), pytest.raises(UserError, match=r"File too large.*GRADSAE_CACHE"):
        cached_folder(tmp_path / "x", build)
    assert not unfinished(tmp_path) and not (tmp_path / "x").exists()
    assert cached_folder(tmp_path / "x", build)["made_from"] == {"made": "here"}


def test_a_file_that_cannot_be_read_is_not_taken_for_the_cache(tmp_path):
    def build(work: Path) -> dict[str, str]:
        raise PermissionError(13, "Permission denied", "/elsewhere/book.txt")

    with pytest.raises(PermissionError, match="book"):
        cached_folder(tmp_path / "x", build)
    with pytest.raises(UnwritableError, match="Permission denied"), writing_below(tmp_path, "it"):
        raise PermissionError(13, "Permission denied", str(tmp_path / "x"))


def test_an_error_of_a_disk_that_nobody_expected_ends_a_command_in_one_line(capsys):
    def main() -> None:
        Path("/dev/null/x").write_text("")

    assert ended(main) == 1
    expected = "error: cannot read or write /dev/null/x: Not a directory. Nothing that was finish"
    assert capsys.readouterr().err.startswith(expected)


def test_output_that_cannot_be_written_is_said_after_the_work_is_done(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmarks.launch.command import command\n"
        "def main():\n"
        "    print('a table')\n"
        f"    Path({str(tmp_path / 'saved')!r}).touch()\n"
        "sys.exit(command(main))\n"
    )
    with Path("/dev/full").open("w") as full:
        run = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    message = b"error: the output could not be written: No space left on device"
    assert (run.returncode, run.stderr[: len(message)]) == (1, message)
    assert run.stderr.count(b"\n") == 1 and (tmp_path / "saved").exists()


def test_a_lost_part_of_the_output_is_remembered_and_a_reader_who_left_is_not():
    with Unread("/dev/full", "w") as full:
        assert full.write(b"abc") == 3
        assert full.reason == os.strerror(28)
    reader, writer = os.pipe()
    os.close(reader)
    with Unread(writer, "w") as pipe:
        assert (pipe.write(b"abc"), pipe.reason) == (3, None)


def test_sigterm_says_what_ctrl_c_says_and_ends_with_143(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def main() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert ended(main, stopped="cells that were done are kept") == 143
    assert capsys.readouterr().err == "\ncells that were done are kept\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_without_a_home_the_cache_asks_for_a_folder_and_a_given_one_is_taken(monkeypatch):
    def homeless(*_):
        raise RuntimeError("Could not determine home directory.")

    for name in ("GRADSAE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(UserError, match=r"no home folder .*: set GRADSAE_CACHE"):
        cache_root()
    with pytest.raises(UserError, match="~/model: the home folder is not known here"):
        expanded("~/model")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_root() == Path("/somewhere/gradsae")


def test_a_lease_on_a_full_disk_leaves_no_file_to_wait_for(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "link", no_links)
    lease = Lease(tmp_path / "leases" / "x")
    with files_of_at_most(0):
        assert lease.take()
    lease.give_back()
    assert not list((tmp_path / "leases").iterdir())


def synced(monkeypatch) -> list[str]:
    """Return a list that gets the path of each file or folder that the disk is asked to keep."""
    paths: list[str] = []
    plain = os.fsync

    def fsync(handle: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        plain(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux for the name of a file")
def test_what_was_said_to_be_saved_outlives_a_power_cut(monkeypatch, tmp_path):
    """Content, name and every new folder above it are synced before and after the rename."""
    paths = synced(monkeypatch)
    assert command(monkeypatch, tmp_path / "new" / "results", *FASTER) == 0
    (record,) = records(tmp_path / "new" / "results")
    results = tmp_path / "new" / "results"
    assert {str(tmp_path), str(tmp_path / "new"), str(results)} <= set(paths)
    for folder in ("records", "checkpoints"):
        assert str(results / folder) in paths
    kept = [path.split("/")[-1].split(".")[0] for path in paths if "/records/" in path]
    assert kept == [record.id]
    names = [path for path in paths if "/checkpoints/" in path]
    assert {Path(name).name.split(".partial")[0].split(".")[0] for name in names} >= {"sae"}
    assert any("/training/" in path and "state.safetensors" in path for path in paths)


def test_a_cached_folder_is_synced_with_its_files(monkeypatch, tmp_path):
    paths = synced(monkeypatch)

    def build(work: Path) -> dict[str, str]:
        (work / "data").write_text("x")
        return {}

    cached_folder(tmp_path / "cache" / "x", build)
    assert {Path(path).name for path in paths} >= {"data", "manifest.json", "cache"}
    write_whole(tmp_path / "note", json.dumps({}))
    assert paths[-1] == str(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without rights")
def test_a_read_only_folder_is_named():
    def message() -> str:
        os.setuid(65534)
        with pytest.raises(UserError) as error:
            check_writable(results)
        return str(error.value)

    with TemporaryDirectory() as folder:  # whose parents, unlike those of tmp_path, are open to all
        results = Path(folder) / "results"
        Path(folder).chmod(0o555)
        said = in_child(message)
    assert said.startswith(f"cannot write to {results}: Permission denied")
    assert "Make it a folder that can be written" in said


def in_child(action) -> str:
    """Return what an action returns in a process of its own."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writer, action().encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as text:
        return text.read()


def test_a_compiled_loop_runs_where_it_cannot_be_kept(tmp_path, monkeypatch):
    """Where the disk is full, and where numba finds no folder that it may write."""
    import numba
    from numba.core import config

    from gradsae.sae.kernels.loops import compiled

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))

    def double(x):
        return 2 * x

    with files_of_at_most(0):
        assert compiled(double)(3) == 6
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    plain = numba.njit

    def njit(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'double': no locator available")
        return plain(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled(double)(4) == 8


def test_pip_without_a_network_is_not_said_to_lack_the_wheel():
    wheel = Wheel(requirement="name==1.0", sha256="0" * 64, members=["*"])
    output = (
        "WARNING: Retrying after connection broken by 'NewConnectionError(...)': /simple/name/\n"
        "ERROR: No matching distribution found for name==1.0\n"
    )
    assert "the package index cannot be reached. Without a network" in str(
        _pip_failed(wheel, output)
    )
    assert "No matching distribution" in str(_pip_failed(wheel, output.splitlines()[1]))


def test_a_full_disk_is_not_called_a_data_set_that_cannot_be_reached(monkeypatch):
    import datasets

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(datasets, "load_dataset", full)
    corpus = Corpus(name="x", source="hub", licence="none", hub_id="owner/name", hub_split="train")
    with pytest.raises(UserError, match=r"cannot write to .*No space left.*HF_HOME"):
        corpus._collect()
