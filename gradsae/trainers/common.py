"""What several methods share: starting points, scores of a batch, counts for the next step."""

from collections.abc import Callable
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import mse_loss

from gradsae.interfaces import Progress
from gradsae.sae.codes import Codes
from gradsae.sae.directions import random_directions
from gradsae.sae.kernels.gates.gate import Gate
from gradsae.sae.model import SAE, Architecture
from gradsae.sae.normalise import fit_normaliser


@torch.no_grad()
def start_from(sae: SAE, directions: Float[Tensor, "d_sae d_in"]) -> None:
    """Let every latent read and write its direction."""
    sae.W_enc.copy_(directions)
    if sae.W_dec is not None:
        sae.W_dec.copy_(directions)


class Fresh(NamedTuple):
    """An untrained SAE, and the sample that shaped it in the SAE's own units."""

    sae: SAE
    x: Float[Tensor, "batch d_in"]


@torch.no_grad()
def fresh(
    arch: Architecture,
    gate: Gate,
    sample: Float[Tensor, "batch d_in"],
    generator: torch.Generator,
    centre: Callable[[Tensor], Tensor],
    *,
    subtract_mean: bool = False,
) -> Fresh:
    """Return an SAE that reads and writes random directions around the sample's `centre`.

    `subtract_mean` has the normaliser take the sample's mean away first.
    """
    sae = SAE(arch, gate)
    normaliser = fit_normaliser(sample, arch.normalise, centre=subtract_mean)
    sae.set_normaliser(normaliser)
    x = normaliser.apply(sample).x
    start_from(sae, random_directions(arch.d_sae, arch.d_in, generator))
    sae.b_dec.copy_(centre(x))
    return Fresh(sae, x)


def risen(progress: Progress, share: float) -> float:
    """Return how far a weight has risen, from 0 to 1, that rises over a share of all steps."""
    return min(1.0, (progress.step + 1) / max(1.0, share * progress.n_steps))


def mean(x: Float[Tensor, "batch d_in"]) -> Float[Tensor, " d_in"]:
    """Return the mean of the rows."""
    return x.mean(0)


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
    """Return the mean number of active latents per row."""
    return (codes.values > 0).sum() / codes.n_rows


def squared_error(
    x: Float[Tensor, "batch d_in"], recon: Float[Tensor, "batch d_in"]
) -> Float[Tensor, ""]:
    """Sum squared errors over the batch, with gradient to `recon`.

    One pass forward and one backward.
    """
    return mse_loss(recon, x, reduction="sum")


def fvu(
    x: Float[Tensor, "batch d_in"], squared: Float[Tensor, "*errors"]
) -> Float[Tensor, "*errors"]:
    """Return the share of the batch's variance that squared errors leave: 0 perfect, 1 the mean."""
    return squared / mse_loss(x, x.mean(0).expand_as(x), reduction="sum")


@final
class HostCount:
    """A count on its way from the device to the host.

    Reading a number from a GPU waits until all queued work is done. This count is sent when it is
    made and read one step later, so it waits at most for the step before.
    """

    def __init__(self, count: Int[Tensor, ""]) -> None:
        self._event = None
        self._count = count
        if count.is_cuda:
            host = torch.empty((), dtype=count.dtype, pin_memory=True)
            self._count = host.copy_(count, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> int:
        if self._event is not None:
            self._event.synchronize()
        return int(self._count)


def positions(mask: Bool[Tensor, " n"], n_true: int) -> Int[Tensor, " n_true"]:
    """Return where the mask is true, as `nonzero`, without asking the device how many there are."""
    index = torch.arange(len(mask), device=mask.device)
    slot = torch.where(mask, mask.cumsum(0) - 1, n_true)  # one slot more, for all the others
    return index.new_zeros(n_true + 1).scatter_(0, slot, index)[:n_true]
