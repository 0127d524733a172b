"""Write files whole or not at all, and say early when that cannot work."""

import contextlib
import os
import tempfile
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
