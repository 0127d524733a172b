"""Small worlds and their true features, for the tests of suitability."""

import torch

from gradsae.sources.superposition import Superposition
from gradsae.suitability.evidence import Evidence


def world(**fields) -> Superposition:
    given = {"n_features": 64, "width": 48, "l0": 3, **fields}
    return Superposition(**given)


def truth(source: Superposition, n: int = 4096) -> tuple[torch.Tensor, Evidence]:
    """Return rows of a source and its true features, on those rows only."""
    drawn = source.held_out(n, 0)
    assert drawn.truth is not None
    return drawn.x, Evidence(
        family="true features",
        directions=source.features(),
        codes=drawn.truth,
        rates=source.rates(),
    )
