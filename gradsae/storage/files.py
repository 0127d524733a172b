"""Write files whole or not at all, and say early when that cannot work."""

import contextlib
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gradsae.errors import UserError
from gradsae.storage.process import is_gone, new_tag

PARTIAL = ".partial"
"""How the names of unfinished files and folders end."""


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` that takes its place in one step, when the block ends.

    The block writes a file or makes a folder there. The name is of this call alone, so two
    processes never write into one unfinished file. What a killed process left for the same target
    is removed first.

    Raises what the block raises, or OSError; what stood at `target` is then untouched.
    """
    remove_unfinished(target)
    fresh = target.with_name(f"{target.name}.{new_tag()}{PARTIAL}")
    try:
        yield fresh
        _sync(fresh)
        if fresh.is_dir() and target.is_dir():
            shutil.rmtree(target)
        fresh.replace(target)
        _sync_folder(target.parent)
    except BaseException:
        remove(fresh)
        raise


def remove_unfinished(target: Path) -> None:
    """Remove what processes that have ended left beside `target` when they wrote it."""
    start = f"{target.name}."
    for path in target.parent.glob(f"{glob.escape(start)}*{PARTIAL}"):
        if is_gone(path.name.removeprefix(start).removesuffix(PARTIAL)):
            remove(path)


def remove(path: Path) -> None:
    """Delete a file or a folder; what cannot be deleted stays, without an error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def write_whole(path: Path | str, text: str) -> None:
    """Replace `path` by `text` in one step: a reader sees the old file or the new one.

    Raises OSError; what stood there before is then untouched and nothing is left behind.
    """
    with replacing(Path(path)) as fresh:
        fresh.write_text(text, encoding="utf-8")


def read_plain(path: Path | str, most: int) -> str:
    """Return the text of a regular file of at most `most` bytes, in UTF-8.

    A link, a pipe or a device is not followed and not waited for. Raises UserError for those and
    for a larger file, OSError where the file cannot be read, ValueError where it is no UTF-8.
    """
    safely = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if Path(path).is_symlink():
        raise UserError("it is a symbolic link; it must be a file of its own")
    handle = os.open(path, os.O_RDONLY | safely)
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(file.fileno())
        if stat.S_ISDIR(about.st_mode):
            raise UserError("it is a folder; it must be a file")
        if not stat.S_ISREG(about.st_mode):
            raise UserError("it is a pipe or a device; it must be a file")
        if about.st_size > most:
            raise UserError(f"it has {about.st_size:,} bytes; it may have {most:,}")
        return file.read(most).decode("utf-8")


def check_writable(folder: Path | str) -> None:
    """Make the folder and try a small file there: a UserError before the work, not after it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error


@contextlib.contextmanager
def writing(what: str, target: Path) -> Iterator[Path]:
    """Yield a path that takes the place of `target` at the end, as `replacing` does.

    Turns a failed write (a full disk above all) into a UserError that says what to do.
    """
    from safetensors import SafetensorError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as fresh:
            yield fresh
    except (OSError, SafetensorError) as error:  # safetensors raises its own for a full disk
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot write {what} to {target}: {reason}. Nothing that was finished is lost. Make "
            "room there, or name another folder with results=, and run the same command again; a "
            "training goes on from its last saved state"
        ) from error


def _sync(path: Path) -> None:
    """Have the disk keep a file, or all files of a folder, before its name is changed."""
    if not path.is_dir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return
    for inner in path.rglob("*"):
        if inner.is_file():
            _sync(inner)
    _sync_folder(path)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system opens folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
