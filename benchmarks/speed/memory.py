"""Peak memory of one contender: a process of its own that does nothing else.

`python -m benchmarks.speed.memory NAME SHAPE CONTENDER` prints its peak resident bytes, imports of
its libraries included.
"""

import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.speed.case import Case
from benchmarks.speed.topics import find

OURS = "ours"
RUNS = 3


def peak_bytes(case: Case, contender: str) -> int | None:
    """Return the peak of a fresh process, or None where the contender cannot run."""
    command = [sys.executable, "-m", __name__, case.name, case.shape, contender]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def main(name: str, shape: str, contender: str) -> None:
    case = find(name, shape)
    work = (case.ours if contender == OURS else case.others[contender])()
    for _ in range(RUNS):
        work()
    print(_peak())


def _peak() -> int:
    """Return this process's peak. (Linux hands the parent's peak on to `ru_maxrss`.)"""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
