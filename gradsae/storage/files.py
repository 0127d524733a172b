"""Write files whole or not at all, and say early when that cannot work."""

import contextlib
import errno
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gradsae.errors import UnwritableError, UserError
from gradsae.storage.process import is_gone, new_tag

PARTIAL = ".partial"
"""How the names of unfinished files and folders end."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the system says of a disk that is full, or of a user's share of it."""
REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE),
}
"""What it says of a folder that cannot be made or written, and of a disk that fails."""
RESULTS = "results="
"""The word of the main command that names another folder."""


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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that a power cut does not undo that. Raises OSError."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        _sync_folder(each.parent)


def check_writable(folder: Path | str, setting: str = RESULTS) -> None:
    """Make the folder and try a small file there: UnwritableError before the work, not after it.

    `setting` is what a user writes to name another folder.
    """
    folder = Path(folder)
    with writing_below(folder, "", setting):
        make_folder(folder)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())


@contextlib.contextmanager
def writing(what: str, target: Path, setting: str = RESULTS) -> Iterator[Path]:
    """Yield a path that takes the place of `target` at the end, as `replacing` does.

    Turns a failed write (a full disk above all) into an UnwritableError that says what to do.
    """
    with writing_below(target.parent, what, setting):
        make_folder(target.parent)
        with replacing(target) as fresh:
            yield fresh


@contextlib.contextmanager
def writing_below(folder: Path, what: str, setting: str = RESULTS) -> Iterator[None]:
    """Turn an error of the disk that a write below `folder` met into an UnwritableError.

    `what` is written; `setting` is what a user writes to name another folder. An error that names
    a file elsewhere, which was read, is raised as it is.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors raises its own for a full disk
        if not _is_below(folder, error):
            raise
        raise cannot_write(folder, error, what, setting) from error


def _is_below(folder: Path, error: Exception) -> bool:
    """Return whether a write below a folder met an error: it names no file, or one on the way."""
    named = getattr(error, "filename", None)
    if not isinstance(named, str | os.PathLike):
        return unwritable(error) is not None
    path, folder = Path(named).absolute(), folder.absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def cannot_write(
    folder: Path, error: Exception, what: str = "", setting: str = RESULTS
) -> UnwritableError:
    """Return the error for a folder that is full or cannot be written.

    `what` was to be written there; `setting` is what a user writes to name another folder.
    """
    reason = unwritable(error) or str(error)
    if (taken := _taken(folder)) is not None:
        reason, remedy = f"{taken} is no folder", "Move it away"
    elif said_full(reason):
        remedy = "Make room there"
    else:
        remedy = "Make it a folder that can be written"
    return UnwritableError(
        f"cannot write {what + ' ' if what else ''}to {folder}: {reason}. Nothing that was "
        f"finished is lost. {remedy}, or take another folder ({setting}), and run the same "
        "command again",
        setting,
    )


def _taken(folder: Path) -> Path | None:
    """Return what stands in the place of a folder or of one above it: a file, a broken link."""
    for each in reversed((folder, *folder.parents)):
        try:
            if not stat.S_ISDIR(each.stat().st_mode):
                return each
        except OSError:
            with contextlib.suppress(OSError):
                return each if each.is_symlink() else None
            return None
    return None


def unwritable(error: Exception) -> str | None:
    """Return why nothing could be written, or None if the error is another one."""
    if isinstance(error, OSError) and error.errno in FULL | REFUSED:
        return error.strerror
    return said_full(str(error))  # safetensors raises its own for a full disk


def said_full(text: str) -> str | None:
    """Return the system's words for a full disk where a text has them."""
    texts = map(os.strerror, sorted(FULL))
    return next((words for words in texts if words in text), None)


def expanded(path: Path | str) -> Path:
    """Return a path with the home folder in place of `~`; UserError where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: the home folder is not known here: write the path out, or set HOME"
        ) from None


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
