"""One loader for every format: told apart by the names of the files, so nobody has to say."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from gradsae.errors import UserError
from gradsae.lm.sites import parse_site
from gradsae.sae import model as saes
from gradsae.sae.formats import dictionary_learning, gemma_scope, saelens, sparsify
from gradsae.sae.formats.released import Config, Place, Released, parse
from gradsae.storage.cache import file_hash, sha256_text
from gradsae.storage.fetch import fetch_snapshot


class Format(NamedTuple):
    weights: tuple[str, ...]
    """One of these files."""
    config: str
    needs_config: bool
    """False where the config is only sometimes there."""
    read: Callable[[Path], Released]


class Ours(Config):
    """What our own checkpoint says of its place; older ones say nothing."""

    model: str | None = None
    site: str | None = None


def _ours(folder: Path) -> Released:
    extra = saes.read_meta(folder)["extra"]
    given = parse(Ours, extra.get("place") or {}, folder / "sae.json")
    site = parse_site(given.site) if given.site is not None else None
    place = Place(given.model, site and site.kind, site and site.layer)
    return Released(saes.load(folder), place)


FORMATS = {
    "Gemma Scope": Format(
        (gemma_scope.NPZ, gemma_scope.SAFETENSORS), gemma_scope.CONFIG, False, gemma_scope.read
    ),
    "SAELens": Format((saelens.WEIGHTS,), saelens.CONFIG, True, saelens.read),
    "dictionary_learning": Format(
        (dictionary_learning.SAFETENSORS, dictionary_learning.PICKLE),
        dictionary_learning.CONFIG,
        True,
        dictionary_learning.read,
    ),
    "sparsify": Format((sparsify.WEIGHTS,), sparsify.CONFIG, True, sparsify.read),
    "gradsae": Format(("sae.safetensors",), "sae.json", True, _ours),
}


def format_of(folder: Path) -> Format:
    """Return the format of the SAE in a folder; UserError naming what would be right."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} to load an SAE from")
    present = {path.name for path in folder.iterdir()}
    for found in FORMATS.values():
        if present & set(found.weights) and (found.config in present or not found.needs_config):
            return found
    known = "; ".join(f"{name}: {_files(one)}" for name, one in FORMATS.items())
    held = ", ".join(sorted(present)[:8]) or "nothing"
    raise UserError(f"{folder} holds no SAE in a known format ({known}). It holds: {held}")


def load(folder: Path) -> Released:
    """Return the SAE in a folder, on the CPU and frozen, with what its files say of its place.

    Raises UserError, naming the file, for what is missing, damaged or cannot be said here.
    """
    found = format_of(folder).read(folder)
    found.sae.requires_grad_(False)
    return found


def content_hash(folder: Path) -> str:
    """Return the sha256 of weights and config, whatever the folder is called."""
    one = format_of(folder)
    names = [name for name in (*one.weights, one.config) if (folder / name).is_file()]
    hashes = [f"{name} {file_hash(folder / name)}" for name in sorted(names)]
    return sha256_text("\n".join(hashes))


@lru_cache(maxsize=16)
def fetch(hub_id: str, subfolder: str, revision: str | None) -> Path:
    """Return the local folder of an SAE in a hub repository; the hub is asked once a process."""
    files = {name for one in FORMATS.values() for name in (*one.weights, one.config)}
    wanted = [f"{subfolder}/{name}" if subfolder else name for name in sorted(files)]
    above = f"{Path(subfolder).parent}/config.json".removeprefix("./")  # sparsify's
    return fetch_snapshot(hub_id, revision, [*wanted, above]) / subfolder


def _files(one: Format) -> str:
    config = f" with {one.config}" if one.needs_config else ""
    return " or ".join(one.weights) + config
