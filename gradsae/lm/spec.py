"""Which language model: a hub id, a folder, a GGUF file, a pinned wheel, or random weights.

The specification alone, without loading anything: its fields, the content id of its weights, and
what a record says about them. `gradsae.lm.loading` makes a transformers model out of it.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import torch

from gradsae.errors import UserError
from gradsae.storage.cache import file_hash, sha256_text
from gradsae.storage.fetch import Wheel, fetch_snapshot, wheel_from
from gradsae.storage.files import expanded

LOG = logging.getLogger(__name__)
CONVERSION = 1
"""Version of the GGUF conversion; part of the weights' id."""

# What each source needs.
NEEDED = {
    "hub": "hub_id",
    "folder": "folder",
    "gguf": "gguf",
    "wheel": "wheels",
    "random": "config",
    "memory": "name",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKENIZER_FILES = (
    *("tokenizer*", "vocab*", "merges*", "added_tokens.json", "special_tokens_map.json"),
    *("*.model", "*.spm", "*.tiktoken", "*.tokenizer", "bpe.codes", "dict.txt", "tekken.json"),
    *("chat_template*", "additional_chat_templates/*", "word_*.json", "*_vocab.json"),
    *("byte_maps.json", "emoji.json", "normalizer.json"),
)
"""Names of all files that a tokenizer of transformers may read."""
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json")
HUB_FILES = [*MODEL_FILES, *TOKENIZER_FILES, "*.json", "*.txt"]


@final
@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """One causal language model; the fields that `source` does not need stay empty."""

    name: str
    """Short name for messages, records and cache folders."""
    source: str
    """hub, folder, gguf, wheel, random, or memory: a model that the caller has already."""
    licence: str
    """SPDX id or name of the weights' licence; "none" for random weights."""
    licence_notice: bool = False
    """Name the licence on stderr before the first download."""
    quantisation: str = "none"
    """Rounding that the weights went through, for example "4-bit-rounded (Q4_1 GGUF)"."""
    dtype: str = "float32"
    """Dtype of weights and activations in memory: float32 or bfloat16."""

    hub_id: str | None = None
    revision: str | None = None
    """Branch, tag or commit on the hub; a record keeps the commit."""
    folder: str | None = None
    """A transformers folder: config.json, safetensors, tokenizer."""
    gguf: str | None = None
    """Path of a GGUF file."""
    gguf_sha256: str | None = None
    """Expected checksum; required for wheels, optional for your own GGUF file."""
    wheels: Sequence[Mapping[str, Any]] = ()
    """Fields of `gradsae.storage.fetch.Wheel`; their members, joined, make up the GGUF."""
    config: Mapping[str, Any] | None = None
    """transformers config with `model_type`, for random weights."""
    seed: int = 0
    """Seed of random weights."""

    block_path: str | None = None
    """Module path of the list of decoder blocks, if it is not found automatically."""
    attn_path: str | None = None
    """Path inside a block of the module whose output attention adds to the residual stream."""
    mlp_path: str | None = None
    """Path inside a block of the module whose output the MLP adds to the residual stream."""

    def __post_init__(self) -> None:
        if self.source not in NEEDED:
            raise UserError(f"source must be one of {', '.join(NEEDED)}, got {self.source!r}")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if not getattr(self, NEEDED[self.source]):
            raise UserError(f"model {self.name}: source={self.source} needs {NEEDED[self.source]}")
        if self.source == "wheel" and self.gguf_sha256 is None:
            raise UserError(f"model {self.name}: source=wheel needs gguf_sha256")
        self.pinned()

    def pinned(self) -> tuple[Wheel, ...]:
        """Return the wheels, checked."""
        return tuple(wheel_from(wheel) for wheel in self.wheels)

    def weights_id(self) -> str:
        """Return the content id of the weights, the same on every machine.

        Needs no download if the weights are pinned.

        GGUF and wheels: the GGUF's sha256. Folder: sha256 over its safetensors, its config and
        all files of its tokenizer. Hub: the commit. Random: the config and the seed.
        """
        match self.source:
            case "random":
                text = json.dumps(plain(self.config), sort_keys=True)
                return f"random:{sha256_text(f'{self.seed}/{text}')}"
            case "hub":
                return f"{self.hub_id}@{_commit(self)}"
            case "memory":
                raise UserError(
                    f"model {self.name} was handed over in memory, so it has no id: save it with "
                    "save_pretrained and load that folder"
                )
            case "folder":
                return f"folder:{_folder_hash(self._path())}"
            case _:
                return f"gguf:{gguf_hash(self)}/{CONVERSION}"

    def former_weights_id(self) -> str | None:
        """Return the id that earlier versions gave the weights, or None where it is the same.

        Of a tokenizer it only covers tokenizer.json, so what is found under it may be of another
        tokenizer: see `gradsae.sources.store.is_of`.
        """
        if self.source != "folder":
            return None
        return f"folder:{_former_folder_hash(self._path())}"

    def tokenizer_changed_ns(self) -> int:
        """Return when a file of a folder's tokenizer was last written, in ns since 1970."""
        return max(
            (f.stat().st_mtime_ns for f in _matching(self._path(), TOKENIZER_FILES)), default=0
        )

    def _path(self) -> Path:
        return expanded(self.folder or "")

    def provenance(self) -> dict[str, Any]:
        """Return what a record states about the weights: JSON values, no path of this machine."""
        origin = {
            "hub": self.hub_id,
            "folder": Path(self.folder or "").name,
            "gguf": Path(self.gguf or "").name,
            "wheel": ", ".join(wheel.requirement for wheel in self.pinned()),
            "random": "random initialisation, not a trained model",
            "memory": "handed over in memory",
        }
        return {
            "name": self.name,
            "source": self.source,
            "origin": origin[self.source],
            "weights_id": self.weights_id(),
            "quantisation": self.quantisation,
            "dtype": self.dtype,
            "licence": self.licence,
        }


def existing_gguf(spec: LanguageModel) -> Path:
    file = expanded(spec.gguf or "")
    if not file.is_file():
        raise UserError(f"model {spec.name}: there is no GGUF file {file}")
    return file


def safetensors_in(folder: Path, name: str) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise UserError(
            f"model {name}: {folder} must hold config.json and *.safetensors "
            "(other weight formats are not read)"
        )
    return files


@lru_cache(maxsize=16)
def _snapshot(hub_id: str, revision: str | None, licence: str) -> Path:
    """Return the folder of a hub repository, fetched if needed. Names `licence` first if given."""
    if licence:
        LOG.warning("The weights of %s come under this licence: %s", hub_id, licence)
    return fetch_snapshot(hub_id, revision, HUB_FILES)


def hub_folder(spec: LanguageModel) -> Path:
    """Return the folder of the hub repository, whose name is the commit."""
    return _snapshot(spec.hub_id or "", spec.revision, spec.licence * spec.licence_notice)


def _commit(spec: LanguageModel) -> str:
    revision = spec.revision or ""
    pinned = len(revision) == 40 and not set(revision) - set("0123456789abcdef")
    return revision if pinned else hub_folder(spec).name


def gguf_hash(spec: LanguageModel) -> str:
    if spec.gguf_sha256 is not None:
        return spec.gguf_sha256
    return file_hash(existing_gguf(spec))


def _folder_hash(folder: Path) -> str:
    """Return the sha256 of what the model and its tokenizer are made of.

    Whatever else lies in the folder does not count, nor do the order of keys and the layout of a
    JSON file.
    """
    safetensors_in(folder, folder.name)
    hashes = {
        file.relative_to(folder).as_posix(): _content_hash(file)
        for file in _matching(folder, (*MODEL_FILES, *TOKENIZER_FILES))
    }
    return sha256_text("\n".join(["2", *(f"{name} {hashes[name]}" for name in sorted(hashes))]))


def _former_folder_hash(folder: Path) -> str:
    files = safetensors_in(folder, folder.name)
    files += [folder / "config.json", folder / "tokenizer.json"]
    return sha256_text("\n".join(f"{f.name} {file_hash(f)}" for f in files if f.is_file()))


def _matching(folder: Path, patterns: Sequence[str]) -> set[Path]:
    return {file for one in patterns for file in folder.glob(one) if file.is_file()}


def _content_hash(file: Path) -> str:
    return file_hash(file, as_json=True) if file.suffix == ".json" else file_hash(file)


def plain(value: Any) -> Any:
    """Return mappings and sequences of any kind (also OmegaConf's) as dict and list."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(entry) for entry in value]
    return value
