"""The printed rows, and a description of the machine."""

import os
import platform

from benchmarks.speed.case import FLOOR
from benchmarks.speed.timing import Row

HEAD = ("case", "shape", "against", "ours", "other", "ratio", "range", "bar", "", "memory")


def machine() -> dict[str, str | int | float]:
    """Return the properties of this machine on which the numbers depend."""
    import torch

    return {
        "cpu": _cpu(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def cells(row: Row) -> tuple[str, ...]:
    """Return one row of the table as text."""
    if row.absent is not None:
        return (row.name, row.shape, row.other, "not run", *[""] * 6)
    assert row.ratio is not None and row.seconds_ours is not None and row.seconds_other is not None
    sign = "<=" if row.other == FLOOR else ">="
    verdict = {None: "", True: "met", False: "MISSED"}[row.met]
    return (
        row.name,
        row.shape,
        row.other,
        duration(row.seconds_ours),
        duration(row.seconds_other),
        f"{row.ratio:.2f}x",
        f"{row.least:.2f}-{row.most:.2f}",
        "" if row.bar is None else f"{sign} {row.bar:g}",
        verdict,
        _memory(row),
    )


def duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"


def _memory(row: Row) -> str:
    sizes = (row.peak_bytes_ours, row.peak_bytes_other)
    return " / ".join("-" if size is None else f"{size / 2**30:.2f}" for size in sizes)
