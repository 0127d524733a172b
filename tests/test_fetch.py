"""Wheels and the cache: whole or absent, checked, never imported. pip reads a local folder here."""

import hashlib
import os
import shutil
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors import SafetensorError

from gradsae.errors import UserError
from gradsae.storage.cache import cache_root, cached_folder
from gradsae.storage.fetch import (
    Wheel,
    _pip_failed,
    bytes_in,
    fetch_snapshot,
    fetch_wheel,
    wheel_from,
)

META = "Metadata-Version: 2.1\nName: shipped-text\nVersion: 1.0\n"
TAGS = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
FILES = {
    "shipped_text/__init__.py": "raise RuntimeError('a fetched package must not be imported')\n",
    "shipped_text/data/one.txt": "the first text",
    "shipped_text/data/two.txt": "the second text",
    "../outside.txt": "must stay inside",
    "shipped_text-1.0.dist-info/METADATA": META,
    "shipped_text-1.0.dist-info/WHEEL": TAGS,
    "shipped_text-1.0.dist-info/RECORD": "",
}
TEXTS = ("shipped_text/data/*.txt",)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADSAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one wheel, where pip can find it without a network."""
    folder = tmp_path_factory.mktemp("shelf")
    with zipfile.ZipFile(folder / "shipped_text-1.0-py3-none-any.whl", "w") as archive:
        for name, text in FILES.items():
            archive.writestr(name, text)
    return folder


@pytest.fixture
def sha256(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Show pip the shelf alone; the checksum of the wheel."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return hashlib.sha256(next(shelf.iterdir()).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def filled(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache into which the wheel was fetched once."""
    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADSAE_CACHE", str(folder))
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(shelf))
        fetch_wheel(shipped(hashlib.sha256(next(shelf.iterdir()).read_bytes()).hexdigest()))
    return folder


@pytest.fixture
def fetched(cache: Path, filled: Path, sha256: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of the wheel's texts; pip is out of reach."""
    shutil.copytree(filled, cache)
    monkeypatch.setattr(subprocess, "Popen", None)
    return fetch_wheel(shipped(sha256))


def shipped(sha256: str, members: tuple[str, ...] = TEXTS) -> Wheel:
    return Wheel(requirement="shipped-text==1.0", sha256=sha256, members=members)


def names_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_only_the_wanted_members_are_unzipped_and_nothing_is_imported(fetched, cache):
    texts = {"shipped_text/data/one.txt", "shipped_text/data/two.txt"}
    assert names_in(fetched) == {*texts, "manifest.json"}
    assert (fetched / "shipped_text/data/one.txt").read_text() == "the first text"
    assert fetched.is_relative_to(cache)


def test_a_second_call_does_not_run_pip(fetched, sha256):
    assert fetch_wheel(shipped(sha256), verify=True) == fetched


def test_other_members_of_the_same_wheel_go_to_another_folder(cache, sha256):
    one = fetch_wheel(shipped(sha256, ("*/one.txt",)))
    assert names_in(one) == {"shipped_text/data/one.txt", "manifest.json"}
    assert one.name != fetch_wheel(shipped(sha256)).name


def test_a_member_cannot_leave_the_cache_folder(cache, sha256, tmp_path):
    folder = fetch_wheel(shipped(sha256, ("*outside.txt",)))
    assert names_in(folder) == {"outside.txt", "manifest.json"}
    assert not list(folder.parent.glob("outside.txt"))


def test_a_wrong_checksum_gives_both_and_leaves_nothing(cache, sha256):
    with pytest.raises(UserError, match=rf"sha256 {sha256}, expected {'0' * 64}"):
        fetch_wheel(shipped("0" * 64))
    assert not [path for path in (cache / "wheels").iterdir() if path.is_dir()]


def test_a_failed_download_repeats_pips_reason_and_says_how_to_go_on_offline(cache, sha256):
    missing = Wheel(requirement="not-there==9.9", sha256=sha256, members=TEXTS)
    with pytest.raises(UserError, match=r"not-there==9\.9: ERROR: .*PIP_FIND_LINKS"):
        fetch_wheel(missing)


def test_what_has_come_is_counted_while_pip_removes_folders(tmp_path, monkeypatch):
    """Pip unpacks into a folder and removes it between our listing of its parent and of itself."""
    (tmp_path / "unpack").mkdir()
    (tmp_path / "unpack" / "part").write_bytes(b"12345")
    (tmp_path / "wheel").write_bytes(b"123")
    assert bytes_in(tmp_path) == 8
    scan = os.scandir

    def removed(place):
        if Path(place).name == "unpack":
            (Path(place) / "part").unlink()
            Path(place).rmdir()
        return scan(place)

    monkeypatch.setattr(os, "scandir", removed)
    assert bytes_in(tmp_path) == 3


def test_members_that_match_nothing_are_named(cache, sha256):
    with pytest.raises(UserError, match=r"matches \['\*\.gguf'\]"):
        fetch_wheel(shipped(sha256, ("*.gguf",)))


def test_a_truncated_file_is_named_with_sizes_and_the_folder_to_delete(fetched, sha256):
    (fetched / "shipped_text/data/one.txt").write_text("the")
    with pytest.raises(UserError, match=r"one\.txt: it has 3 bytes, expected 14") as info:
        fetch_wheel(shipped(sha256))
    assert f"delete the folder {fetched}" in str(info.value)


def test_a_changed_byte_is_found_when_verifying(fetched, sha256):
    (fetched / "shipped_text/data/one.txt").write_text("the first texX")
    fetch_wheel(shipped(sha256))
    expected = hashlib.sha256(b"the first text").hexdigest()
    with pytest.raises(UserError, match=f"expected {expected}"):
        fetch_wheel(shipped(sha256), verify=True)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 0, "files": {}}'])
def test_a_damaged_manifest_is_a_user_error(fetched, sha256, text):
    (fetched / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="not a manifest of schema 1"):
        fetch_wheel(shipped(sha256))


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, os.strerror(28)),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
    ids=["the system's", "safetensors'"],
)
def test_a_full_disk_is_a_user_error_and_leaves_nothing(cache, error: Exception):
    def build(work: Path) -> dict[str, str]:
        (work / "half").write_text("half")
        raise error

    with pytest.raises(UserError, match=r"No space left.*GRADSAE_CACHE"):
        cached_folder(cache / "models" / "x", build)
    assert not [path for path in (cache / "models").iterdir() if path.is_dir()]


def test_a_full_disk_during_a_download_is_not_called_a_failed_fetch(monkeypatch):
    import huggingface_hub

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(UserError, match=r"cannot write to .*No space left.*HF_HOME"):
        fetch_snapshot("owner/name", None, ["*"])
    said = str(_pip_failed(shipped("0" * 64), "ERROR: [Errno 28] No space left on device"))
    assert said.startswith("cannot write to ") and "GRADSAE_CACHE" in said


def test_a_cache_that_cannot_be_made_is_a_user_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GRADSAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write to .*is no folder"):
        cached_folder(cache_root() / "x" / "y", lambda work: {})


def test_what_a_killed_process_left_is_swept_away(cache):
    left_over = cache / "x.abc.partial"
    left_over.mkdir(parents=True)
    cached_folder(cache / "x", lambda work: {})
    assert not left_over.exists()


def test_two_at_once_build_once(cache):
    built = []

    def build(work: Path) -> dict[str, int]:
        built.append(work)
        (work / "file").write_text("x" * 100_000)
        return {"n": 1}

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(cached_folder, cache / "x", build) for _ in range(4)]
    assert [job.result()["made_from"] for job in jobs] == [{"n": 1}] * 4
    assert len(built) == 1


def test_the_cache_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("GRADSAE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "gradsae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "gradsae"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("requirement", "name>=1", "name==version"),
        ("sha256", "ABC", "64 lower-case hex digits"),
        ("members", "*.txt", "list of glob patterns"),
        ("colour", "red", "needs requirement, sha256 and members"),
    ],
)
def test_a_wrong_wheel_entry_is_a_user_error(field, value, message):
    fields = {"requirement": "a==1", "sha256": "0" * 64, "members": ["*"], field: value}
    with pytest.raises(UserError, match=message):
        wheel_from(fields)
