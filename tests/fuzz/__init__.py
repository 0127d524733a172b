"""Foreign files, damaged at random from a seed, and every reader of them: what must not happen.

python -m tests.fuzz [--tries N] [--seed S]     the whole campaign, one line at its end
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

SECONDS = 60
"""After which a reader counts as hanging."""


@dataclass
class Counts:
    """What a campaign has seen."""

    tries: int = 0
    read: int = 0
    """Damaged files that passed all checks, so that commands had to bear them."""
    tracebacks: int = 0
    hangs: int = 0
    silent: int = 0
    """Damaged or non-finite data that was taken for good."""
    code_run: int = 0
    """Text of a file that was run, followed, or became a part of a page."""
    notes: list[str] = field(default_factory=list)
    """What happened, one line each."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, name) + getattr(other, name) for name in vars(self)))

    def bad(self) -> int:
        return self.tracebacks + self.hangs + self.silent + self.code_run

    def line(self, what: str) -> str:
        return (
            f"{what}: {self.tries} tries ({self.read} passed all checks), "
            f"{self.tracebacks} tracebacks, {self.hangs} hangs, "
            f"{self.silent} silent acceptances, {self.code_run} times code of a file"
        )


class HangError(Exception):
    """A reader took longer than `SECONDS`."""


@contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """Raise HangError in the block once it has taken so many seconds."""

    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(counts: Counts, what: str, call: Callable[[], Any], fine: type[Exception]) -> Any:
    """Return what a call returns, or None; count a hang, and any error that is not `fine`."""
    try:
        with limited():
            return call()
    except fine:
        return None
    except HangError:
        counts.hangs += 1
        counts.notes.append(f"hang: {what}")
    except Exception as error:
        counts.tracebacks += 1
        counts.notes.append(f"traceback: {what}: {type(error).__name__}: {str(error)[:200]!r}")
    return None
