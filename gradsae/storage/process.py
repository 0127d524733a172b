"""Which process made a file: a short name that says whether it still runs."""

import hashlib
import os
import secrets
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

KERNEL = ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid")
"""What tells machines of one name apart, and containers of one machine."""


@cache
def machine() -> str:
    """Return 8 hex digits that stand for this machine, its boot and its numbering of processes."""
    said = [socket.gethostname()]
    with suppress(OSError):
        said += [Path(KERNEL[0]).read_text(), str(Path(KERNEL[1]).readlink())]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:8]


def new_tag() -> str:
    """Return a name that no other call returns: machine, process id and chance."""
    return f"{machine()}-{os.getpid()}-{secrets.token_hex(4)}"


def is_gone(tag: str) -> bool:
    """Return whether the process of a tag is known to have ended; False where that is unknown."""
    where, _, rest = tag.partition("-")
    pid = rest.partition("-")[0]
    if where != machine() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it runs, and is another user's
        return False
    return False
