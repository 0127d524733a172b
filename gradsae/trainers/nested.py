"""Nested prefixes of the latents: which latent is in which, what each writes, and how well."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.sae import kernels
from gradsae.sae.codes import Codes, DenseCodes, SparseCodes
from gradsae.sae.kernels.precision import Precision


def check_prefixes(shares: Sequence[float], d_sae: int) -> None:
    """Raise ValueError unless the shares of latents in the prefixes rise and end with 1."""
    for share in shares:
        checks.share("each of prefixes", share)
    ends = ends_of(shares, d_sae)
    rising = all(a < b for a, b in zip([0, *ends], ends, strict=False))
    if not ends or not rising or ends[-1] != d_sae:
        raise ValueError(
            f"prefixes must be rising shares that end with 1, each with at least one latent more "
            f"than the one before; {list(shares)} of d_sae={d_sae} latents gives {ends}"
        )


def ends_of(shares: Sequence[float], d_sae: int) -> list[int]:
    """Return the number of latents in each prefix, given their shares."""
    return [round(share * d_sae) for share in shares]


def rank_by_rate(rate: Float[Tensor, " d_sae"]) -> Int[Tensor, " d_sae"]:
    """Return the place of each latent when they are sorted by rate, the most frequent at 0."""
    return rate.argsort(descending=True, stable=True).argsort()


def follow_rates(rate: Float[Tensor, " d_sae"], codes: Codes, weight: float) -> None:
    """Move running rates towards those of a batch, in place."""
    rate.lerp_(codes.fired().to(rate) / codes.n_rows, weight)


def groups_of(rank: Int[Tensor, " d_sae"], ends: Sequence[int]) -> Int[Tensor, " d_sae"]:
    """Return for each latent the number of the first prefix that has it; `ends` are their sizes."""
    return torch.bucketize(rank, torch.tensor(ends, device=rank.device), right=True)


def decode_groups(
    codes: Codes,
    W_dec: Float[Tensor, "d_sae d_in"],
    group: Int[Tensor, " d_sae"],
    n_groups: int,
    precision: Precision = "fp32",
) -> Float[Tensor, "batch groups d_in"]:
    """Return what the latents of each group write, without a bias; the running sum over groups is
    what the prefixes write. All groups of sparse codes go through one decode, as rows of their own.
    """
    if isinstance(codes, SparseCodes):
        flat = kernels.decode(_rows_of_groups(codes, group, n_groups), W_dec, precision)
        return flat.view(codes.n_rows, n_groups, -1)
    masked = [DenseCodes(values=codes.values * (group == i)) for i in range(n_groups)]
    return torch.stack([kernels.decode(each, W_dec, precision) for each in masked], dim=1)


def _rows_of_groups(codes: SparseCodes, group: Int[Tensor, " d_sae"], n_groups: int) -> SparseCodes:
    """Return the same entries as codes with a row for each group of each row."""
    row = codes.rows * n_groups + group[codes.latents]
    row, order = row.sort(stable=True)
    starts = torch.arange(codes.n_rows * n_groups + 1, device=row.device)
    return SparseCodes(
        values=codes.values.gather(0, order),
        latents=codes.latents[order],
        offsets=torch.searchsorted(row, starts),
        d_sae=codes.d_sae,
    )


def row_errors(
    x: Float[Tensor, "batch d_in"],
    written: Float[Tensor, "batch groups d_in"],
    bias: Float[Tensor, " d_in"],
    *,
    detach: bool,
) -> Float[Tensor, "groups batch"]:
    """Return each prefix's squared error on each row; the last prefix is the whole SAE.

    With `detach` the error of an inner prefix has a gradient only to its last group: what the
    groups before write is taken as given. That of the whole SAE has one to all.
    """
    errors, recon = [], bias
    for i, part in enumerate(written.unbind(1)[:-1]):
        recon = (recon.detach() if detach and i else recon) + part
        errors.append((x - recon).square().sum(1))
    return torch.stack([*errors, (x - bias - written.sum(1)).square().sum(1)])


def tilted_mean(errors: Float[Tensor, " batch"], tilt: float) -> Float[Tensor, ""]:
    """Return the mean of the rows' errors, weighted by exp(tilt * error / mean error).

    The weights have no gradient. Tilted empirical risk minimisation (Li et al. 2021,
    https://arxiv.org/abs/2007.01162) with the tilt in units of the mean error.
    """
    fixed = errors.detach()
    weight = (tilt * fixed / fixed.mean().clamp_min(1e-30)).softmax(0)
    return (weight * errors).sum()
