"""What every kernel here needs to be declared and launched.

Loops whose bounds are known on the device alone are `while` loops: Triton's interpreter cannot take
such a bound in `range` with numpy from 2.4 on.
"""

import inspect
from collections.abc import Callable
from typing import Any

import triton  # pyright: ignore[reportMissingImports]
from torch import Tensor


def jit(loop: Callable[..., None]) -> Any:
    """Declare a kernel. `unwrap` takes off the shape checks that tests put on."""
    return triton.jit(inspect.unwrap(loop))  # pyright: ignore[reportAttributeAccessIssue]


def power_of_2(n: int, low: int = 1) -> int:
    """Return the least power of two that is at least `n` and at least `low`."""
    return max(low, 1 << max(0, n - 1).bit_length())


def unit_columns(matrix: Tensor) -> Tensor:
    """Return the matrix, copied only if neighbours in a row are not neighbours in memory."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
