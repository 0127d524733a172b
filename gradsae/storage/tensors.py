"""Files of tensors: safetensors, with a checksum in those that this package writes.

The checksum is the sha256 of all names, dtypes, shapes and numbers. It stands in the metadata of
the file. A file without one, as older versions and other libraries write it, is taken as it is.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gradsae.errors import UserError
from gradsae.storage.sealed import CHECKSUM


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors of any device, with their checksum. Raises OSError or SafetensorError."""
    from safetensors.torch import save_file

    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(held, path, {CHECKSUM: checksum(held)})


def read_tensors(path: Path, what: str = "weights", *, own: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    `own` says that only this package writes such a file: its metadata must be a checksum that
    holds, or nothing. The metadata of others is not looked at.
    Raises UserError, naming the file, for one that is missing or damaged.
    """
    tensors, metadata = _read(path, what)
    if own and metadata and metadata != {CHECKSUM: (got := checksum(tensors))}:
        expected = metadata.get(CHECKSUM, "none")
        raise UserError(f"{path}: damaged {what} (sha256 {got[:12]}..., expected {expected[:12]})")
    return tensors


def has_checksum(path: Path) -> bool:
    """Return whether a safetensors file that can be opened names a checksum."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return CHECKSUM in (file.metadata() or {})


def _read(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a safetensors file; UserError for a damaged one."""
    from safetensors import safe_open

    check_file(path, what)
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except Exception as error:  # what the reader raises for damaged files is not declared
        raise UserError(f"{path}: damaged {what} ({first_line(error)})") from None


def check_file(path: Path, what: str) -> None:
    """Raise UserError unless there is a file: a pipe or a device would be read for ever."""
    if not path.exists():
        raise UserError(f"{path}: {what} are missing")
    if not path.is_file():
        raise UserError(f"{path}: {what} must be a file")


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the hex sha256 of tensors on the CPU: names, dtypes, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
