"""Agreement about the top of the list: the share of the true effects in the K largest estimates.

Signed: about the latents that support the target. Recall at K of a list of K is precision at K
(`agreement.precision_at_k`) and has no function of its own. Ties between estimates at an edge count
as the expectation over breaking them at random.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.interfaces import Skipped
from gradsae.stats.agreement import top_share

FAR = 5
"""A true top-K latent ranked below FAR x K is a false negative."""


def effect_recall_at_k(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"], k: int
) -> float | Skipped:
    """Return the effect of the k largest estimates over that of the k largest effects.

    At most 1, which is best; negative where the chosen latents work against the target.
    """
    if unfit := _unfit(effect, k):
        return unfit
    best = effect.double().topk(k).values.sum()
    return (top_share(estimate, k) @ effect.double() / best).item()


def ndcg_at_k(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"], k: int
) -> float | Skipped:
    """Return the normalised discounted cumulative gain of the first k, in [0, 1]; 1 is best.

    Gain: the effect, 0 where it is negative. Discount of place i (from 1): 1 / log2(i + 1); tied
    estimates share the mean discount of their places. `sklearn.metrics.ndcg_score` gives the same
    to 1e-15, but not the last digit of published records.
    """
    if unfit := _unfit(effect, k):
        return unfit
    discount = torch.zeros(len(effect), dtype=torch.float64)
    discount[:k] = 1 / torch.arange(2, k + 2, dtype=torch.float64).log2()
    gain = effect.double().clamp_min(0)
    _, group, count = (-estimate).unique(return_inverse=True, return_counts=True)
    shared = torch.zeros(len(count), dtype=torch.float64)
    shared.scatter_add_(0, group.sort().values, discount)
    gained = (shared / count)[group] @ gain
    return (gained / (discount @ gain.sort(descending=True).values)).item()


def false_negatives_at_k(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"], k: int
) -> float | Skipped:
    """Return the share of the k largest effects ranked below 5 k, in [0, 1]; 0 is best.

    Latents whose effect equals the k-th largest all belong to the k.
    """
    if len(effect) <= FAR * k:
        return Skipped(f"no more than {FAR} x {k} active latents: none can be ranked below")
    if unfit := _unfit(effect, k):
        return unfit
    top = effect >= effect.topk(k).values[-1]
    return (1 - top_share(estimate, FAR * k)[top].mean()).clamp(0, 1).item()


def recall_after_checks(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"], k: int, checks: int
) -> float | Skipped:
    """Return the share of the k largest effects known after exact checks of the first estimates.

    In [0, 1], 1 is best. What was checked is known; below k checks the list is filled up to k with
    the next estimates, so 0 checks give precision at k.
    """
    if unfit := _unfit(effect, k):
        return unfit
    top = effect >= effect.topk(k).values[-1]
    n_known = min(max(checks, k), len(effect))
    return (top_share(estimate, n_known)[top].sum() / k).clamp(0, 1).item()


def _unfit(effect: Float[Tensor, " latents"], k: int) -> Skipped | None:
    if len(effect) <= k:
        return Skipped(f"no more than {k} active latents: every ranking would be right")
    if float(effect.topk(k).values[-1]) <= 0:
        return Skipped(f"fewer than {k} latents support the target")
    return None
