"""What a saved training state must be before a training goes on from it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gradsae.sae.weights import n_not_finite


def check_state(
    tensors: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    weights: Sequence[Tensor],
    steps: int,
) -> None:
    """Raise ValueError unless a state fits a training of `steps` steps.

    `held` are the tensors of the SAE by name, `weights` those that Adam moves, in its order.
    """
    done = tensors["done"]
    if done.numel() != 1 or done.is_floating_point() or not 0 <= int(done) <= steps:
        raise ValueError(f"its step must be from 0 to {steps}, got {done.tolist()!r:.40}")
    if not float(tensors["seconds"]) >= 0:
        raise ValueError(f"its seconds must be 0 or more, got {float(tensors['seconds'])}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and (n_bad := n_not_finite(tensor)):
            raise ValueError(f"{n_bad} numbers of {name} are not finite")
    for name, tensor in held.items():
        _check_like(f"sae/{name}", tensors[f"sae/{name}"], tensor)
    for key in [key for key in tensors if key.startswith("adam/")]:
        _, i, name = key.split("/")
        if name != "step":
            _check_like(key, tensors[key], weights[int(i)])
    _check_curve({k: t for k, t in tensors.items() if k.startswith("curve/")}, int(done))


def _check_like(name: str, tensor: Tensor, model: Tensor) -> None:
    """Raise ValueError for another shape than that of `model`, or another kind of numbers."""
    if tensor.shape != model.shape or tensor.is_floating_point() != model.is_floating_point():
        raise ValueError(
            f"{name} must be {model.dtype} of shape {[*model.shape]}, "
            f"got {tensor.dtype} of {[*tensor.shape]}"
        )


def _check_curve(columns: Mapping[str, Tensor], done: int) -> None:
    steps = columns["curve/step"]
    if any(column.shape != (len(steps),) for column in columns.values()):
        raise ValueError("the columns of its curve must have one length")
    grows = bool((steps[1:] > steps[:-1]).all()) and bool(torch.all(steps >= 0))
    if not grows or (len(steps) and int(steps[-1]) >= max(1, done)):
        raise ValueError(f"the steps of its curve must grow and lie below {done}")
