"""The inference threshold of methods whose training gate looks at a whole batch."""

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.codes import Codes
from gradsae.kernels.gates import BatchTopKGate
from gradsae.normalise import MODES, Mode, fit_normaliser
from gradsae.sae import SAE, Architecture
from gradsae.trainers.common import geometric_median, random_directions, start_from

START_ROWS = 1024
"""Rows of the sample from which the first threshold is taken."""


def check_batch_top_k(
    *, d_sae: int, k: int | float, tied: bool, normalise: Mode, threshold_rate: float
) -> None:
    """Raise ValueError naming the first field that is out of range."""
    checks.whole("d_sae", d_sae, 1)
    checks.number("k", k, above=0)
    if k > d_sae:
        raise ValueError(f"k must be at most d_sae={d_sae}, got {k!r}")
    checks.flag("tied", tied)
    checks.one_of("normalise", normalise, MODES)
    checks.share("threshold_rate", threshold_rate)


@torch.no_grad()
def build_with_threshold(
    sample: Float[Tensor, "batch d_in"],
    generator: torch.Generator,
    *,
    d_sae: int,
    gate: BatchTopKGate,
    tied: bool,
    normalise: Mode,
) -> SAE:
    """Return an untrained SAE: encoder = decoder in random directions, the geometric median as
    b_dec, and the threshold at which k latents open on a row of the sample, on average."""
    arch = Architecture(
        d_in=sample.shape[1],
        d_sae=d_sae,
        gate="jumprelu",
        bandwidth=0.0,
        tied=tied,
        normalise=normalise,
    )
    sae = SAE(arch)
    normaliser = fit_normaliser(sample, normalise)
    sae.set_normaliser(normaliser)
    directions = random_directions(d_sae, arch.d_in, generator)
    start_from(sae, directions)
    x = normaliser.apply(sample).x
    sae.b_dec.copy_(geometric_median(x))
    assert sae.threshold is not None
    sae.threshold.requires_grad_(False)  # follows the batches, not the gradient
    follow_threshold(sae, sae.encode_in(x[:START_ROWS], gate=gate).codes, rate=1.0)
    return sae


def follow_threshold(sae: SAE, codes: Codes, rate: float) -> None:
    """Move the threshold of all latents towards the least open value of a batch."""
    assert sae.threshold is not None
    values = codes.values
    least = torch.where(values > 0, values, torch.inf).amin() if values.numel() else torch.inf
    least = torch.as_tensor(least).to(sae.threshold)
    moved = sae.threshold.lerp(least, rate)
    sae.threshold.copy_(torch.where(least.isfinite(), moved, sae.threshold))
