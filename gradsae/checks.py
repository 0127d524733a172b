"""Checks of hyperparameters: each message names the field, the value and what would be right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradsae.errors import UserError

if TYPE_CHECKING:
    import torch


def whole(field: str, value: Any, low: int, high: int | None = None) -> None:
    """Raise ValueError unless `value` is a whole number from `low` to `high`."""
    bounds = f"from {low}" + ("" if high is None else f" to {high}")
    if type(value) is not int or value < low or (high is not None and value > high):
        raise ValueError(f"{field} must be a whole number {bounds}, got {value!r}")


def number(
    field: str, value: Any, *, above: int | float | None = None, low: int | float | None = None
) -> None:
    """Raise ValueError unless `value` is a finite number (above `above`, from `low` on)."""
    real = type(value) in (int, float) and abs(value) < float("inf")
    if not real or (above is not None and value <= above) or (low is not None and value < low):
        bound = (
            f" above {above:g}"
            if above is not None
            else f" from {low:g}"
            if low is not None
            else ""
        )
        raise ValueError(f"{field} must be a number{bound}, got {value!r}")


def share(field: str, value: Any) -> None:
    """Raise ValueError unless `value` lies between 0 and 1."""
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"{field} is a share between 0 and 1, got {value!r}")


def one_of(field: str, value: Any, options: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `options`."""
    if value not in options:
        raise ValueError(f"{field} must be one of {', '.join(options)}; got {value!r}")


def flag(field: str, value: Any) -> None:
    """Raise ValueError unless `value` is true or false."""
    if type(value) is not bool:
        raise ValueError(f"{field} must be true or false, got {value!r}")


def device(name: str) -> "torch.device":
    """Return the device of a name; "auto" takes CUDA where there is one.

    Raises UserError unless torch can put a tensor there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
        torch.empty(1, device=place).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise UserError(
            f"device must be auto, cpu or one that torch can use here, got {name!r}: {reason}"
        ) from None
    return place
