"""Leases: processes that share a folder share its work instead of doing it twice.

A lease is a file that says which process works on something. It is made in one step, its time is
renewed while the work goes on, and it is deleted at the end. One is stale when its process has
ended, which is known on its own machine, or when it was not renewed for `STALE_SECONDS` as this
process counts them: clocks of different machines are never compared. A stale lease is taken over.

Leases save work and guard nothing. Where two processes hold one after all (a process slept through
its renewals), the work is done twice, each into files of its own, with the same result.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import final

from filelock import FileLock

from gradsae.storage.files import PARTIAL, remove, remove_unfinished
from gradsae.storage.process import is_gone, new_tag

RENEW_SECONDS = 10.0
STALE_SECONDS = 120.0
POLL_SECONDS = 0.25

_own: set[Path] = set()
"""The leases that this process holds."""
_renewals: dict[Path, tuple[tuple[str, int], float]] = {}
"""The last state of a foreign lease, and when this process first saw it."""


@final
class Lease:
    """The right to do one piece of work, by the file that stands for it; None for work of nobody
    else, whose lease is always free."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._tag = ""
        self._ended = threading.Event()

    def take(self) -> bool:
        """Take the lease; return False if it is held, by another process or by this one.

        True also where no lease can be written: the work then says why, or needs no writing.
        """
        if self._path is None:
            return True
        if self._path in _own or is_held(self._path):
            return False
        tag = new_tag()
        content = {"tag": tag, "host": socket.gethostname(), "pid": os.getpid()}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self._path)
        except OSError:
            return True
        try:
            _make(self._path, json.dumps(content), tag)
        except FileExistsError:
            return False
        except OSError:
            return True
        _own.add(self._path)
        self._tag, self._ended = tag, threading.Event()
        threading.Thread(target=_renew, args=(self._path, tag, self._ended), daemon=True).start()
        return True

    def give_back(self) -> None:
        """Delete the file, if it still is that of this lease."""
        self._ended.set()
        if self._path is None or not self._tag:
            return
        if _tag_of(self._path) == self._tag:
            remove(self._path)
        _own.discard(self._path)
        self._tag = ""


def _renew(path: Path, tag: str, ended: threading.Event) -> None:
    """Renew a lease until it ends or is another's."""
    while not ended.wait(RENEW_SECONDS) and _tag_of(path) == tag:
        with contextlib.suppress(OSError):
            os.utime(path)


@contextlib.contextmanager
def holding(path: Path, on_wait: Callable[[str], None] = lambda holder: None) -> Iterator[None]:
    """Hold a lease during the block; wait until it is free.

    Nothing is to be done where this process holds it already.
    `on_wait` is called once with the holder's host and process id if there is a wait.
    """
    if path in _own:
        yield
        return
    lease, has_waited = Lease(path), False
    while not lease.take():
        if not has_waited:
            on_wait(holder_of(path))
            has_waited = True
        sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lease.give_back()


@contextlib.contextmanager
def working_alone(path: Path) -> Iterator[None]:
    """Keep other threads and processes from a piece of work during the block; wait for them first.

    A lock of the system is sure on one machine, and ends with its process. Some network file
    systems have none, or none that other machines see: there the lease stands for it.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):  # the work itself says what fails
            stack.enter_context(FileLock(path))
        stack.enter_context(holding(path.with_name(f"{path.name}.lease")))
        yield


def is_held(path: Path) -> bool:
    """Return whether another process has a lease; one that is stale is removed."""
    tag = _tag_of(path)
    if tag is None or path in _own:
        return False
    if not _is_stale(path, tag):
        return True
    _break(path, tag)
    return False


def holder_of(path: Path) -> str:
    """Return host and process id of the holder, for a person."""
    content = _content(path)
    return f"process {content['pid']} on {content['host']}" if content else "another process"


def _is_stale(path: Path, tag: str) -> bool:
    if is_gone(tag):
        return True
    try:
        state = (tag, path.stat().st_mtime_ns)
    except OSError:
        return False
    before, since = _renewals.get(path, (None, 0.0))
    if before != state:
        _renewals[path] = (state, monotonic())
        return False
    return monotonic() - since > STALE_SECONDS


def _break(path: Path, stale_tag: str) -> None:
    """Remove a stale lease. What turns out to be another's, made in the meantime, is put back."""
    moved = path.with_name(f"{path.name}.{new_tag()}{PARTIAL}")
    with contextlib.suppress(OSError):
        path.rename(moved)
        if _tag_of(moved) != stale_tag:
            os.link(moved, path)
    remove(moved)


def _make(path: Path, text: str, tag: str) -> None:
    """Make a file with its content in one step; FileExistsError if it is there."""
    fresh = path.with_name(f"{path.name}.{tag}{PARTIAL}")
    try:
        fresh.write_text(text)
        _link(fresh, path, text)
    finally:
        remove(fresh)


def _link(fresh: Path, path: Path, text: str) -> None:
    """Give a file its second name; on a file system without links, write it there."""
    try:
        os.link(fresh, path)
    except FileExistsError:
        raise
    except OSError:
        with path.open("x") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:  # a full disk
                remove(path)
                raise


def _content(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.keys() >= {"tag", "host", "pid"} else {}


def _tag_of(path: Path) -> str | None:
    """Return the tag in a lease; the empty text where it says none, None where there is no file."""
    if not path.is_file():
        return None
    return str(_content(path).get("tag", ""))
