"""The tensors in a file of weights: safetensors, numpy's npz, or a pickle that holds nothing else.

A pickle is read by torch's restricted unpickler (`weights_only=True`), which builds tensors and
plain containers and calls nothing else; a file that asks for more is refused.
"""

from pathlib import Path

import torch
from torch import Tensor

from gradsae.errors import UserError
from gradsae.storage.tensors import check_file, first_line, read_tensors


def read_first(folder: Path, *names: str) -> tuple[Path, dict[str, Tensor]]:
    """Return the first of some files that is there (else the last), and its tensors.

    Raises UserError: missing or damaged file, or more in it than tensors.
    """
    path = next((folder / name for name in names if (folder / name).exists()), folder / names[-1])
    readers = {".npz": _from_npz, ".pt": _from_pickle}
    return path, readers.get(path.suffix, read_tensors)(path)


def _from_npz(path: Path) -> dict[str, Tensor]:
    """Plain arrays only: numpy is told to refuse pickled ones."""
    import numpy as np

    check_file(path, "weights")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    except Exception as error:  # what zip, numpy and torch raise for damaged files is not declared
        raise UserError(f"{path}: damaged weights ({first_line(error)})") from None


def _from_pickle(path: Path) -> dict[str, Tensor]:
    check_file(path, "weights")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as above
        raise UserError(
            f"{path}: damaged, or more than a dictionary of tensors ({first_line(error)})"
        ) from None
    if not isinstance(held, dict) or not all(map(_is_plain, held.values())):
        raise UserError(f"{path}: must hold a dictionary of tensors and nothing else")
    if odd := [name for name in held if not isinstance(name, str)]:
        raise UserError(f"{path}: names of tensors must be texts, got {odd[0]!r:.60}")
    return {name: tensor.detach() for name, tensor in held.items()}


def _is_plain(value: object) -> bool:
    """Return whether a value is a tensor with its numbers in memory, one after the other."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return value.device.type == "cpu" and not value.is_quantized
