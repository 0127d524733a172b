"""How well an estimate agrees with the true effects of one prompt's latents.

Every function takes both as vectors over the same latents, does not depend on their order, and
returns a number or `Skipped` with the reason why there is none. All need MIN_LATENTS latents.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.interfaces import Skipped

MIN_LATENTS = 3
"""Two points always lie on a line."""
CHUNK = 256
"""Rows of pairs held at once."""


def pearson(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"]
) -> float | Skipped:
    """Return the linear correlation, in [-1, 1]; 1 is best. Ruled by the few largest effects."""
    if unfit := _unfit(estimate, effect):
        return unfit
    a, b = _centred(estimate), _centred(effect)
    return (a @ b).clamp(-1, 1).item()


def spearman(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"]
) -> float | Skipped:
    """Return the correlation of the ranks, in [-1, 1]; 1 is best. Tied values share their rank."""
    return pearson(ranks(estimate), ranks(effect))


def spearman_abs(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"]
) -> float | Skipped:
    """Return the rank correlation of the sizes, in [-1, 1]; 1 is best.

    Which latents matter at all: the fair question to an estimate without a sign.
    """
    return spearman(estimate.abs(), effect.abs())


def kendall_tau_b(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"]
) -> float | Skipped:
    """Return Kendall's tau-b, in [-1, 1]; 1 is best.

    Pairs in order minus pairs out of order, corrected for ties on either side.
    `scipy.stats.kendalltau` gives the same to 1e-15, but not the last digit of published records.
    """
    if unfit := _unfit(estimate, effect):
        return unfit
    agree = apart_a = apart_b = 0.0
    for rows in torch.arange(len(effect)).split(CHUNK):
        a, b = (torch.sign(x[rows, None] - x) for x in (estimate, effect))
        agree += (a * b).sum(dtype=torch.float64).item()
        apart_a += a.abs().sum(dtype=torch.float64).item()
        apart_b += b.abs().sum(dtype=torch.float64).item()
    return agree / (apart_a * apart_b) ** 0.5


def sign_agreement(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"]
) -> float | Skipped:
    """Return the share of the total |effect| whose sign the estimate has, in [0, 1]; 1 is best.

    Denominator: the sum of |effect|. An estimate of exactly 0 has no sign and is never right.
    """
    if len(effect) < MIN_LATENTS:
        return Skipped(f"fewer than {MIN_LATENTS} active latents")
    weight = effect.double().abs()
    if not bool(weight.any()):
        return Skipped("all true effects are zero")
    right = estimate.sign() == effect.sign()
    return (weight[right].sum() / weight.sum()).item()


def precision_at_k(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"], k: int
) -> float | Skipped:
    """Return the share of the k largest estimates that are among the k largest effects.

    In [0, 1], 1 is best; signed, so it is about the latents that support the target. A latent
    whose effect equals the k-th largest counts as one of the k. Estimates tied at the k-th place
    share what is left of the k: the expectation over breaking the tie at random.
    """
    if len(effect) <= k:
        return Skipped(f"no more than {k} active latents: every ranking would be right")
    top, runner_up = effect.topk(k + 1).values[-2:].tolist()
    if top == runner_up and (top == 0 or top == effect.max()):
        return Skipped(f"the {k} largest effects are not set apart: too many are {top:g}")
    return (top_share(estimate, k) @ (effect >= top).double() / k).clamp(0, 1).item()


def ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return ranks from 1 up, in float64; tied values get the mean of the ranks they cover."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0)
    return (last - (count - 1).double() / 2)[place]


def top_share(values: Float[Tensor, " n"], k: int) -> Float[Tensor, " n"]:
    """Return the probability of each entry to be among the k largest, ties broken at random."""
    edge = values.topk(k).values[-1]
    above, tied = values > edge, values == edge
    return above.double() + tied.double() * ((k - above.sum()) / tied.sum())


def _centred(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the values minus their mean, scaled to norm 1, in float64.

    Effects may be tiny or huge, so they are scaled first.
    """
    values = values.double() / values.abs().max().double()
    centred = values - values.mean()
    return centred / centred.norm()


def _unfit(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"]
) -> Skipped | None:
    if len(effect) < MIN_LATENTS:
        return Skipped(f"fewer than {MIN_LATENTS} active latents")
    for name, values in (("estimates", estimate), ("true effects", effect)):
        if bool((values == values[0]).all()):
            return Skipped(f"all {name} are equal")
    return None
