"""The hidden state in what a module of a decoder returns: alone, in a tuple or list, flat."""

from typing import Any

from torch import Tensor


def first(output: Any) -> Tensor:
    """Return the hidden state in a module's output, which may be a tuple or a list."""
    return output[0] if isinstance(output, tuple | list) else output


def hidden_in(output: Any, n_rows: int) -> Tensor:
    """Return the hidden state in a module's output as [batch, pos, d_in].

    Some MLPs (OPT, Llama 4) put the tokens of all rows one after the other: [batch * pos, d_in].
    """
    hidden = first(output)
    return hidden.reshape(n_rows, -1, hidden.shape[-1]) if hidden.dim() == 2 else hidden


def with_first(output: Any, hidden: Tensor) -> Any:
    """Return a module's output with another hidden state [batch, pos, d_in] in it."""
    return _with(output, hidden.flatten(0, 1) if first(output).dim() == 2 else hidden)


def copied(output: Any) -> Any:
    """Return a module's output with a copy of its hidden state."""
    return _with(output, first(output).clone())


def _with(output: Any, hidden: Tensor) -> Any:
    if not isinstance(output, tuple | list):
        return hidden
    make = getattr(type(output), "_make", type(output))  # named tuples have their own
    return make((hidden, *output[1:]))
