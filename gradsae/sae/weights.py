"""The one gate through which weights come: what a file holds is checked before an SAE is made.

A loader names the tensors it takes and their sizes (`check_weights`), brings them into our form,
and hands them to `fill`. What is wrong in the file and what the loader itself makes non-finite
are said apart.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsae.errors import UserError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Layout = Mapping[str, tuple[str, ...]]
"""The sizes of each tensor, by name: {"W_enc": ("d_in", "d_sae")}. Equal names are equal sizes."""
Module = TypeVar("Module", bound=nn.Module)


def check_weights(tensors: Mapping[str, Tensor], layout: Layout, path: Path) -> dict[str, int]:
    """Return the sizes by name: {"d_in": 768, "d_sae": 4096}.

    Raises UserError, naming the file and the tensor, for one that is missing, not of floating
    point, not finite, or of a shape that does not fit the others.
    """
    if missing := [name for name in layout if name not in tensors]:
        raise UserError(f"{path}: {', '.join(missing)} missing")
    sizes: dict[str, int] = {}
    for name, names in layout.items():
        shape = list(tensors[name].shape)
        fits = len(shape) == len(names) and all(
            size > 0 and sizes.setdefault(axis, size) == size
            for axis, size in zip(names, shape, strict=True)
        )
        if not fits:
            known = ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in names)
            raise UserError(
                f"{path}: the weights do not fit each other: {name} has shape {shape}, but must be "
                f"[{known}]"
            )
        check_numbers(name, tensors[name], path)
    return sizes


def check_numbers(name: str, tensor: Tensor, path: Path) -> None:
    """Raise UserError unless a tensor is of floating point and finite."""
    if tensor.dtype not in FLOATS:
        raise UserError(f"{path}: {name} must hold floating-point numbers, got {tensor.dtype}")
    if n_bad := n_not_finite(tensor):
        raise UserError(
            f"{path}: {name} must hold finite numbers, {n_bad} of {tensor.numel()} are not"
        )


def n_not_finite(tensor: Tensor) -> int:
    """Return how many numbers are NaN or infinite."""
    # A sum is ten times faster than isfinite; only one that overflowed needs the long way.
    if tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)).isfinite():
        return 0
    return int((~tensor.isfinite()).sum())


def refuse_others(tensors: Mapping[str, Tensor], known: Collection[str], path: Path) -> None:
    """Raise UserError for tensors of floating point that the loader would leave out."""
    odd = {name for name, tensor in tensors.items() if tensor.is_floating_point()} - {*known}
    if odd:
        names = ", ".join(sorted(odd))
        raise UserError(f"{path}: {names} has no counterpart here; only plain SAEs are read")


def check_sizes(
    stated: Mapping[str, Any], sizes: Mapping[str, int], config: Path, path: Path
) -> None:
    """Raise UserError where a config states another size than the weights have."""
    for name, size in sizes.items():
        if stated.get(name, size) != size:
            raise UserError(
                f"{config}: {name}={stated[name]}, but {path.name} holds weights of {name}={size}"
            )


def direction_norms(
    W_dec: Float[Tensor, "d_sae d_in"], path: Path, reason: str
) -> Float[Tensor, " d_sae"]:
    """Return the norm of each decoder row, by which a loader divides; none may be 0.

    `reason` is the setting of the file that asks for the division.
    """
    norms = W_dec.norm(dim=1)
    if bool((norms == 0).any()):
        rows = (norms == 0).nonzero().flatten().tolist()
        raise UserError(
            f"{path}: with {reason} weights are divided by the norm of each decoder row, which is "
            f"0 for latent {rows[0]}" + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
        )
    return norms


def level_of(tensors: Mapping[str, Tensor], name: str, d_sae: int, path: Path) -> Tensor:
    """Return a threshold per latent from one for all or one for each; at least 0.

    Released formats clip codes at zero as well as at the threshold, which a threshold of 0 says.
    """
    if name not in tensors:
        raise UserError(f"{path}: {name} missing")
    level = tensors[name]
    check_numbers(name, level, path)
    if tuple(level.shape) not in ((), (1,), (d_sae,)):
        raise UserError(
            f"{path}: {name} has shape {list(level.shape)}, but must be one number or one for each "
            f"of {d_sae} latents"
        )
    level = level.float().clamp_min(0).reshape(-1)
    return level.expand(d_sae) if len(level) == 1 else level


def fill(sae: Module, weights: Mapping[str, Tensor], path: Path) -> Module:
    """Return the SAE with these weights, in float32; they have passed `check_weights`.

    The tensors become the SAE's own, since a copy of a wide one takes gigabytes. Constants that
    the weights do not name (those of the normaliser) stay.
    Raises UserError where the way into our form made numbers that float32 cannot hold.
    """
    ours = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    for name, tensor in ours.items():
        if n_bad := n_not_finite(tensor):
            row = int((~tensor.isfinite()).nonzero()[0, 0])
            raise UserError(
                f"{path}: the numbers in the file are finite, but {n_bad} of {name} (the first for "
                f"row {row}) are not once they are scaled as the file asks and held in float32"
            )
    constants = {name: tensor for name, tensor in sae.named_buffers() if name not in ours}
    try:
        sae.load_state_dict({**constants, **ours}, assign=True)
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise UserError(f"{path}: the weights do not fit each other: {message}") from None
    return sae
