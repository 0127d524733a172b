"""The tensors in a file of weights: safetensors, numpy's npz, or a pickle that holds nothing else.

A pickle is read by torch's restricted unpickler (`weights_only=True`), which builds tensors and
plain containers and calls nothing else; a file that asks for more is refused.
"""

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from gradsae.errors import UserError


def read_first(folder: Path, *names: str) -> tuple[Path, dict[str, Tensor]]:
    """Return the first of some files that is there (else the last), and its tensors.

    Raises UserError: missing or damaged file, or more in it than tensors.
    """
    path = next((folder / name for name in names if (folder / name).exists()), folder / names[-1])
    readers = {".npz": _from_npz, ".pt": _from_pickle}
    return path, readers.get(path.suffix, read_safetensors)(path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: weights are missing") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged weights ({error})") from None


def _from_npz(path: Path) -> dict[str, Tensor]:
    """Plain arrays only: numpy is told to refuse pickled ones."""
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged weights ({error})") from None


def _from_pickle(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: weights are missing") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"{path}: damaged, or more than a dictionary of tensors ({first})"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise UserError(f"{path}: must hold a dictionary of tensors and nothing else")
    return {str(name): tensor for name, tensor in found.items()}
