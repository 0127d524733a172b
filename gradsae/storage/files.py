"""Write files whole or not at all, and say early when that cannot work."""

import contextlib
import os
import shutil
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
