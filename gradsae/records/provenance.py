"""Where a number comes from: commit, versions, hardware and command of this process."""

import os
import platform
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from gradsae.records.shapes import Provenance

# What shapes the numbers. A change under results/ or in the docs does not make a record dirty.
CODE = ("gradsae", "benchmarks", "conf", "pyproject.toml", "constraints.txt")

PACKAGES = (
    *("gradsae", "torch", "triton", "numpy", "scipy", "transformers", "tokenizers"),
    *("datasets", "safetensors", "gguf", "hydra-core", "omegaconf", "wandb"),
)

ABSOLUTE_PATH = re.compile(r"(?<![\w./~-])~?/(?!/)[^\s,=:;'\"\[\]{}()]+")


def provenance(device: object, checkout: Path | None = None, **extra: Any) -> Provenance:
    """Return what a record says about its origin; no host name, no absolute path.

    Args:
        device: What ran it: "cpu", "cuda:0" or a torch.device.
        checkout: Folder of the code that ran, where that is a git checkout: the commit is asked
            of it, and paths below it are kept. None where the code is an installed package.
        extra: Keys to add or to replace, for example `model={"note": "4-bit-rounded weights"}`.
    """
    commit, dirty = _commit(checkout)
    origin: Provenance = {
        "commit": commit,
        "dirty": dirty,
        "versions": _versions(),
        "device": str(device),
        "gpu": _gpu() if str(device).startswith("cuda") else None,
        "cpu": _cpu(),
        "cores": _cores(),
        "platform": f"{platform.system()} {platform.machine()}",
        "command": _command(sys.argv, checkout),
    }
    return cast(Provenance, {**origin, **extra})


def reduce_paths(text: str, checkout: Path | None = None) -> str:
    """Return `text` with absolute paths relative to the checkout, or cut to their last part.

    >>> reduce_paths("source.file=/home/someone/data/x.txt")
    'source.file=x.txt'
    """

    def reduced(match: re.Match[str]) -> str:
        path = Path(match.group())
        if checkout is not None and path.is_relative_to(checkout):
            return str(path.relative_to(checkout))
        return path.name or "/"

    return ABSOLUTE_PATH.sub(reduced, text)


def _command(argv: list[str], checkout: Path | None = None) -> str:
    """Return the command as it can be typed again in the checkout: `python -m benchmarks.run`."""
    start = Path(argv[0] or "-c")
    here = checkout is not None and start.is_absolute() and start.is_relative_to(checkout)
    if checkout is not None and here and start.suffix == ".py":
        parts = list(start.relative_to(checkout).with_suffix("").parts)
        parts = parts[:-1] if parts[-1] == "__main__" else parts
        program = f"python -m {'.'.join(parts)}"
    else:
        program = start.name
    return " ".join([program, *(shlex.quote(reduce_paths(word, checkout)) for word in argv[1:])])


def _commit(checkout: Path | None) -> tuple[str | None, bool | None]:
    """Return the commit of the code and whether it was changed since; (None, None) where unknown.

    A machine without the git folder (a container) sets GRADSAE_COMMIT=<sha> or <sha>-dirty.
    """
    told = os.environ.get("GRADSAE_COMMIT", "")
    if told:
        return told.removesuffix("-dirty"), told.endswith("-dirty")
    if checkout is None:
        return None, None
    top = _output("git", "-C", str(checkout), "rev-parse", "--show-toplevel", "HEAD")
    if top is None or Path(top.split("\n")[0]).resolve() != checkout.resolve():
        return None, None
    changes = _output("git", "-C", str(checkout), "status", "--porcelain", "--", *CODE)
    return top.split("\n")[1], changes != ""


def _versions() -> dict[str, str]:
    """Return versions of this Python and of the packages; a loaded one says its build, too."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            loaded = getattr(sys.modules.get(package), "__version__", None)
            versions[package] = str(loaded or metadata.version(package))
        except metadata.PackageNotFoundError:
            continue
    return versions


def _gpu() -> str | None:
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.split("\n")[0] if names else None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), flags=re.MULTILINE)
        if found:
            return found.group(1).strip()
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or "unknown"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _output(*command: str) -> str | None:
    """Standard output of a command, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
