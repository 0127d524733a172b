"""Starting points that several methods share."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from gradsae.codes import Codes


def random_directions(
    d_sae: int, d_in: int, generator: torch.Generator
) -> Float[Tensor, "d_sae d_in"]:
    """Return unit vectors drawn uniformly from the sphere."""
    return normalize(torch.randn(d_sae, d_in, generator=generator), dim=1)


def geometric_median(
    x: Float[Tensor, "batch d_in"], *, n_steps: int = 50
) -> Float[Tensor, " d_in"]:
    """Return the point with the least summed distance to the rows (Weiszfeld iterations).

    Outlier tokens barely move it, unlike the mean (used for b_dec by Bricken et al. 2023).
    """
    median = x.mean(0)
    for _ in range(n_steps):
        weight = 1 / (x - median).norm(dim=1).clamp_min(1e-6)
        median = weight @ x / weight.sum()
    return median


def l0(codes: Codes) -> Float[Tensor, ""]:
    """Mean number of open latents per row."""
    return codes.n_open().float().mean()


def fvu(x: Float[Tensor, "batch d_in"], recon: Float[Tensor, "batch d_in"]) -> Float[Tensor, ""]:
    """Fraction of the batch's variance left unexplained (0 perfect, 1 the mean)."""
    return (x - recon).square().sum() / (x - x.mean(0)).square().sum()
