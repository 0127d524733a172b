"""Write files whole or not at all, and say early when that cannot work."""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gradsae.errors import UserError


def write_whole(path: Path | str, text: str) -> None:
    """Replace `path` by `text` in one step: a reader sees the old file or the new one.

    Raises OSError; what stood there before is then untouched and nothing is left behind.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


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
def writing(what: str, folder: Path, *, leaving: Path) -> Iterator[None]:
    """Turn a failed write (a full disk above all) into a UserError that says what to do.

    `leaving` is the unfinished file or folder; it is deleted, to give its space back.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors raises its own for a full disk
        if leaving.is_dir():
            shutil.rmtree(leaving, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                leaving.unlink()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot write {what} to {folder}: {reason}. Nothing that was finished is lost. Make "
            "room there, or name another folder with results=, and run the same command again; a "
            "training goes on from its last saved state"
        ) from error
