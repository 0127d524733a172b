"""How every command ends: its messages, its exit status, and what it does without a reader."""

import io
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TextIO, final

from typing_extensions import Buffer

from gradsae.errors import UserError
from gradsae.storage.files import unwritable
from gradsae.tables.printing import printable_lines

MAX_LINE = 2_000
"""Characters in a line of a message."""


class TerminatedError(KeyboardInterrupt):
    """The system asked the process to end (SIGTERM): a scheduler, a shutdown."""


def command(main: Callable[[], None], stopped: str = "stopped") -> int:
    """Run a command and return its exit status: 1, with the message alone, for bad input.

    A disk that is full, or a file or folder that cannot be used, counts as bad input.
    `stopped` is what Ctrl-C and SIGTERM say; their status is 130 and 143.
    """
    outlive_readers()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
        return _lost_output()
    except UserError as error:
        return _failed(str(error))
    except KeyboardInterrupt as stop:
        print(f"\n{stopped}", file=sys.stderr)
        return 143 if isinstance(stop, TerminatedError) else 130
    except Exception as error:
        if (message := machine_message(error)) is None:
            raise
        return _failed(message)
    finally:
        signal.signal(signal.SIGTERM, before)


def machine_message(error: BaseException | None) -> str | None:
    """Return what to say of an error of the disk, of a file or of memory; None for another one."""
    is_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or is_torch:
        first = (str(error).splitlines() or ["the system gives no more"])[0]
        return f"not enough memory: {first} Take a smaller batch (fit.batch_size) or SAE (d_sae)"
    while error is not None:
        if isinstance(error, Exception) and (reason := unwritable(error)):
            where = getattr(error, "filename", None) or "a file"
            return (
                f"cannot read or write {where}: {reason}. Nothing that was finished is lost: mend "
                "that and run the same command again"
            )
        error = error.__cause__
    return None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise TerminatedError


def _failed(message: str) -> int:
    sys.stdout.flush()
    print(printable_lines(f"error: {message}", MAX_LINE), file=sys.stderr)
    return 1


def _lost_output() -> int:
    """Return the status of a command that came to its end: 1 if its output could not be written."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, Unread) or raw.reason is None:
        return 0
    return _failed(f"the output could not be written: {raw.reason}. Files are as they should be")


def outlive_readers() -> None:
    """Let the command go on where its output is a pipe that nobody reads any more (`| head`), or
    a file on a full disk.

    What it computes is then still saved; what it prints is dropped.
    """
    sys.stdout, sys.stderr = _outliving(sys.stdout), _outliving(sys.stderr)


def _outliving(stream: TextIO) -> TextIO:
    """Return a stream to the same file that drops what cannot be written.

    Other streams (of tests, of notebooks, none at all) stay as they are.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    stream.flush()
    raw = Unread(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
    )


@final
class Unread(io.FileIO):
    """A file whose reader may go away, on a disk that may be full."""

    reason: str | None = None
    """Why a part of what was written is lost, unless nobody wanted to read it."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes
        except OSError as error:
            if (reason := unwritable(error)) is None:
                raise
            self.reason = reason
            return memoryview(data).nbytes
