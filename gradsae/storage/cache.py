"""The user's cache: folders that appear whole or not at all, with a checksum for every file.

Every cached folder holds a `manifest.json` with the size and sha256 of its files. It is written
last, into a temporary folder that then takes the final name, so no folder is ever half made.
"""

import hashlib
import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gradsae.errors import UserError
from gradsae.storage.files import (
    PARTIAL,
    expanded,
    make_folder,
    remove,
    replacing,
    writing_below,
)
from gradsae.storage.lease import working_alone
from gradsae.storage.sealed import read_object, sealed, unsealed

MANIFEST = "manifest.json"
SCHEMA = 1
CACHE = "GRADSAE_CACHE"
"""The variable of the environment that names another folder."""
PROGRESS_BYTES = 2 * 10**9
"""Hashing more than this shows a progress bar: about 2 s on a machine with SHA instructions."""


def cache_root() -> Path:
    """$GRADSAE_CACHE, else $XDG_CACHE_HOME/gradsae, else ~/.cache/gradsae.

    Raises UserError where no home folder is known.
    """
    named = os.environ.get(CACHE)
    if named:
        return expanded(named).absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "gradsae"
    try:
        return Path.home() / ".cache" / "gradsae"
    except RuntimeError:
        raise UserError(
            f"there is no home folder to keep downloads in: set {CACHE} to a folder that can be "
            "written"
        ) from None


def cached_folder(
    target: Path, build: Callable[[Path], dict[str, Any]], *, verify: bool = False
) -> dict[str, Any]:
    """Make `target` unless it is there, and return its manifest.

    `build` fills an empty folder and returns what it was made from (JSON values), which the
    manifest keeps under "made_from". Only one process builds; the others wait. A folder that is
    there is checked by file sizes, with `verify` also by sha256.

    Raises UserError: a damaged folder, a full disk, a cache that cannot be written.
    """
    if not target.exists():
        with writing_below(target.parent, "", CACHE):
            make_folder(target.parent)
            with working_alone(target.parent / f".{target.name}.lock"):
                if not target.exists():
                    _build(target, build)
    return check_folder(target, verify=verify)


def check_folder(folder: Path, *, verify: bool) -> dict[str, Any]:
    """Return the manifest of a cached folder; raise UserError where a file differs from it."""
    manifest = _read_manifest(folder)
    for name, entry in manifest["files"].items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise _damaged(file, "it is missing", folder)
        if size != entry["size"]:
            raise _damaged(file, f"it has {size} bytes, expected {entry['size']}", folder)
        if verify and (got := sha256_file(file)) != entry["sha256"]:
            raise _damaged(file, f"sha256 is {got}, expected {entry['sha256']}", folder)
    return manifest


def sha256_file(*files: Path) -> str:
    """Hex sha256 of the files' bytes, one after the other."""
    total = sum(file.stat().st_size for file in files)
    digest = hashlib.sha256()
    disable = None if total > PROGRESS_BYTES else True
    with tqdm(total=total, unit="B", unit_scale=True, desc="checksum", disable=disable) as bar:
        for file in files:
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
                    bar.update(len(block))
    return digest.hexdigest()


def file_hash(file: Path, *, as_json: bool = False) -> str:
    """Return the sha256 of a file, remembered in this process until the file is written again.

    With `as_json` it is that of the values: layout and order of keys do not count. A file that is
    no JSON is hashed by its bytes.
    """
    status = file.stat()
    # ctime too: a size and a modification time can be what they were before the file was changed.
    stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _file_hash(file, stamp, as_json)


@lru_cache(maxsize=4096)
def _file_hash(file: Path, stamp: tuple[int, ...], as_json: bool) -> str:
    if as_json:
        try:
            return sha256_text(json.dumps(json.loads(file.read_bytes()), sort_keys=True))
        except (ValueError, RecursionError):
            pass
    return sha256_file(file)


def sha256_text(text: str) -> str:
    """Hex sha256 of a text in UTF-8; lone surrogates are kept as they are."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _build(target: Path, build: Callable[[Path], dict[str, Any]]) -> None:
    for left_over in target.parent.glob(f"{target.name}.*{PARTIAL}"):
        remove(left_over)  # of a process that was killed: we hold the lock
    with replacing(target) as work:
        work.mkdir()
        made_from = build(work)
        files = sorted(file for file in work.rglob("*") if file.is_file())
        entries = {
            file.relative_to(work).as_posix(): {
                "size": file.stat().st_size,
                "sha256": sha256_file(file),
            }
            for file in files
        }
        manifest = {"schema": SCHEMA, "made_from": made_from, "files": entries}
        (work / MANIFEST).write_text(json.dumps(sealed(manifest), indent=1) + "\n")


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        manifest = unsealed(read_object(file), file)
    except UserError as error:
        raise _damaged(file, f"it is not a manifest of schema {SCHEMA} ({error})", folder) from None
    entries = manifest.get("files")
    entries = list(entries.values()) if isinstance(entries, dict) else [None]
    whole = all(isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in entries)
    if manifest.get("schema") != SCHEMA or not whole:
        raise _damaged(file, f"it is not a manifest of schema {SCHEMA}", folder)
    return manifest


def _damaged(file: Path, what: str, folder: Path) -> UserError:
    return UserError(
        f"damaged file {file}: {what}. To repair it, delete the folder {folder} and run again."
    )
