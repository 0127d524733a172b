"""Which module computes with a tensor: compiled loops (CPU), Triton (CUDA) or torch built-ins."""

import os
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from gradsae.sae.kernels import builtin


def backend(tensor: Tensor) -> ModuleType:
    """Return the module whose products and selection fit this tensor's device and dtype.

    GRADSAE_TRITON=0 in the environment keeps CUDA tensors on torch built-ins.
    """
    if tensor.dtype != torch.float64 and wants_triton(tensor):
        from gradsae.sae.kernels import triton

        return triton
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        from gradsae.sae.kernels import cpu  # numba takes a second to import

        return cpu
    return builtin


def screen(x: Tensor, W: Tensor) -> ModuleType | None:
    """Return the module that selects exactly from cheap products, where they are cheaper."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return None
    from gradsae.sae.kernels import integers
    from gradsae.sae.kernels import screen as bfloat16

    return next((module for module in (bfloat16, integers) if module.applies(x, W)), None)


def wants_triton(tensor: Tensor) -> bool:
    return tensor.is_cuda and _has_triton()


@cache
def _has_triton() -> bool:
    return os.environ.get("GRADSAE_TRITON", "1") != "0" and find_spec("triton") is not None
