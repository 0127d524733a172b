"""The activations that a method is built from, before a training begins."""

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.errors import TooFewRowsError, UserError
from gradsae.interfaces import Source


def initial_sample(source: Source, n_rows: int, seed: int) -> Float[Tensor, "n_rows d_in"]:
    """Return the first `n_rows` activations of a source's stream, in float32 on the CPU.

    Raises UserError if the source has fewer, or if they are not all finite.
    """
    try:
        stream = source.stream(n_rows, seed, torch.device("cpu"))
    except TooFewRowsError as error:
        raise error.of("fit.init_rows") from None
    sample = stream.next().float()
    if not sample.isfinite().all():
        raise UserError(f"source {source.name}: its training activations are not all finite")
    return sample
