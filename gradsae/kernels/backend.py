"""Which module computes with a tensor: compiled loops on the CPU, torch built-ins elsewhere."""

from types import ModuleType

import torch
from torch import Tensor

from gradsae.kernels import builtin


def backend(tensor: Tensor) -> ModuleType:
    """Return the module whose products and selection fit this tensor's device and dtype."""
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        from gradsae.kernels import cpu  # numba takes a second to import

        return cpu
    return builtin


def screen(x: Tensor, W: Tensor) -> ModuleType | None:
    """Return the module that selects exactly from cheap products, where they are cheaper."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return None
    from gradsae.kernels import screen as module

    return module if module.applies(x, W) else None
