"""Agreement in size, not only in rank, for estimates in units of the target."""

from jaxtyping import Float
from torch import Tensor

from gradsae.interfaces import Skipped


def calibration_slope(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"]
) -> float | Skipped:
    """Return the least-squares slope of effect on estimate, with an intercept; 1 is best.

    Above 1 the estimate is too small. The few largest latents dominate it.
    """
    if len(effect) < 3:
        return Skipped("fewer than 3 active latents")
    x, y = estimate.double(), effect.double()
    x, y = x - x.mean(), y - y.mean()
    spread = x @ x
    if float(spread) == 0:
        return Skipped("all estimates are equal")
    return (x @ y / spread).item()


def relative_error(
    estimate: Float[Tensor, " latents"], effect: Float[Tensor, " latents"]
) -> float | Skipped:
    """Return sum |estimate - effect| / sum |effect|; 0 is best, 1 is that of estimating zero."""
    total = effect.double().abs().sum()
    if float(total) == 0:
        return Skipped("all true effects are zero")
    return ((estimate.double() - effect.double()).abs().sum() / total).item()


def completeness_gap(scores: Float[Tensor, " active"], joint: float) -> float:
    """Return |sum of the scores - effect of removing all latents at once|, in units of the target.

    0 for exact shares of a joint removal (integrated gradients, Shapley); effects of single
    removals do not add up, so for them it is a measure of interaction and not of error.
    """
    return abs(scores.double().sum().item() - joint)
