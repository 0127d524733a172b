"""How every command ends: its messages, its exit status, and what it does without a reader."""

import io
import sys
from collections.abc import Callable
from typing import TextIO, final

from typing_extensions import Buffer

from gradsae.errors import UserError
from gradsae.tables.printing import printable

MAX_LINE = 2_000
"""Characters in a line of a message."""


def command(main: Callable[[], None], stopped: str = "stopped") -> int:
    """Run a command and return its exit status: 1, with the message alone, for bad input.

    `stopped` is what Ctrl-C says; its status is 130.
    """
    outlive_readers()
    try:
        main()
    except UserError as error:
        sys.stdout.flush()
        print("\n".join(_shown(f"error: {error}")), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return 130
    return 0


def _shown(message: str) -> list[str]:
    """Return the lines of a message; what a record put into it must not steer the terminal."""
    return [printable(line, MAX_LINE) for line in message.split("\n")]


def outlive_readers() -> None:
    """Let the command go on where its output is a pipe that nobody reads any more (`| head`).

    What it computes is then still saved; what it prints is dropped.
    """
    sys.stdout, sys.stderr = _outliving(sys.stdout), _outliving(sys.stderr)


def _outliving(stream: TextIO) -> TextIO:
    """Return a stream to the same file that drops what can no longer be written.

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
    """A file whose reader may go away."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes
