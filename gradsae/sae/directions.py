"""Random directions: where training starts from, and what chance-level controls are made of."""

import torch
from jaxtyping import Float
from torch.nn.functional import normalize


def random_directions(
    n: int, d_in: int, generator: torch.Generator
) -> Float[torch.Tensor, "directions d_in"]:
    """Draw `n` unit vectors uniformly from the sphere."""
    return normalize(torch.randn(n, d_in, generator=generator), dim=1)


def random_rotation(d_in: int, generator: torch.Generator) -> Float[torch.Tensor, "d_in d_in"]:
    """Draw an orthogonal matrix uniformly (QR of a Gaussian matrix; Mezzadri 2007,
    https://arxiv.org/abs/math-ph/0609050: the signs of R's diagonal make it uniform)."""
    Q, R = torch.linalg.qr(torch.randn(d_in, d_in, generator=generator))
    return Q * R.diagonal().sign()
