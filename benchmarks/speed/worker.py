"""A process for each contender: it waits, works on request, and answers with its time.

Contenders do not share an allocator, a thread pool or a heap. Other libraries, and steps as they
are commonly written, run as torch is by itself; whatever is ours, and the floor, as this package
sets torch up (see gradsae/__init__.py).

`python -m benchmarks.speed.worker NAME SHAPE CONTENDER` reads numbers of repeats, one a line, and
answers each with the seconds that one unit of work took.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Self, final

import gradsae  # noqa: F401 (before torch: it sets torch up)
from benchmarks.speed.case import FOREIGN, Absent, Case, Work
from benchmarks.speed.topics import find

OURS = "ours"
LEAST_SECONDS = 0.5
"""A timed block repeats its work for about so long: whoever worked before left the caches cold."""

LONG = 10.0
"""Seconds above which one run is warm-up enough."""

_PLAIN = {
    k: v for k, v in os.environ.items() if k not in ("THP_MEM_ALLOC_ENABLE", "GOMP_SPINCOUNT")
}


@final
class Worker:
    """One contender in its process. Raises Absent, with the reason, where it cannot run."""

    def __init__(self, case: Case, contender: str) -> None:
        settings = "0" if contender in FOREIGN else "1"
        self._messages = tempfile.TemporaryFile("w+")  # noqa: SIM115 (a pipe would fill up)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, case.name, case.shape, contender],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            env={**_PLAIN, "GRADSAE_TORCH_SETTINGS": settings},
        )
        hello = self._answer()
        if "absent" in hello:
            self.__exit__()
            raise Absent(hello["absent"])
        self._repeats = max(1, round(LEAST_SECONDS / max(hello["seconds"], 1e-9)))

    def seconds(self) -> float:
        """Let it work for a block and return the time of one unit of work."""
        return self._ask(self._repeats)["seconds"]

    def peak_bytes(self) -> int:
        """Return its peak resident memory so far, imports of its libraries included."""
        return self._ask(0)["peak_bytes"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._messages.close()

    def _ask(self, repeats: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{repeats}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._messages.seek(0)
            last = self._messages.read().strip().splitlines()[-1:] or ["it printed nothing"]
            return {"absent": f"it failed: {last[0]}"}
        return json.loads(line)


def main(name: str, shape: str, contender: str) -> None:
    answers = sys.stdout
    with redirect_stdout(sys.stderr):  # whatever a library prints is no answer
        case = find(name, shape)
        try:
            work = (case.ours if contender == OURS else case.contenders[contender])()
        except Absent as reason:
            print(json.dumps({"absent": str(reason)}), file=answers, flush=True)
            return
        seconds = timed(work, 1)
        if seconds < LONG:
            seconds = timed(work, 1)
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)
        for line in sys.stdin:
            repeats = int(line)
            answer = {"seconds": timed(work, repeats)} if repeats else {"peak_bytes": _peak()}
            print(json.dumps(answer), file=answers, flush=True)


def timed(work: Work, repeats: int) -> float:
    """Return the seconds that one of several runs took."""
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


def _peak() -> int:
    """Return this process's peak. (Linux hands the parent's peak on to `ru_maxrss`.)"""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
