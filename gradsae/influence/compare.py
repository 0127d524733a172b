"""All measures of agreement between the estimates and the true effects of one prompt."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor

from gradsae.influence import at_k, calibration
from gradsae.interfaces import Skipped
from gradsae.stats import agreement

Agreement = dict[str, float | Skipped]
Scored = Mapping[str, Float[Tensor, " units"] | Skipped]
"""Estimates by the name of the estimator, or the reason why there are none."""
Measure = Callable[[Tensor, Tensor], float | Skipped]

OVER_ALL: dict[str, Measure] = {
    "spearman": agreement.spearman,
    "spearman_abs": agreement.spearman_abs,
    "pearson": agreement.pearson,
    "kendall": agreement.kendall_tau_b,
    "sign_agreement": agreement.sign_agreement,
}
IN_UNITS: dict[str, Measure] = {
    "calibration_slope": calibration.calibration_slope,
    "relative_error": calibration.relative_error,
}
AT_K: dict[str, Callable[[Tensor, Tensor, int], float | Skipped]] = {
    "precision": agreement.precision_at_k,
    "effect_recall": at_k.effect_recall_at_k,
    "ndcg": at_k.ndcg_at_k,
    "false_negatives": at_k.false_negatives_at_k,
}
EXTRA_MEASURES = ("spearman", "spearman_abs", "sign_agreement", "precision", "relative_error")
"""Measures reported of further scalars and truths; of the usual scalar and truth, all are."""

ONLY_A_PART = Skipped("only a part of the active latents was ablated")


def compare(
    estimates: Scored,
    effect: Float[Tensor, " units"],
    ks: Sequence[int],
    *,
    in_units: Mapping[str, bool],
    whole: bool,
    only: Sequence[str] | None = None,
) -> dict[str, Agreement]:
    """Compute every measure ("precision_at_10") of every estimate, by its name.

    `whole` is True if every unit was measured: the top of a part is not the top of all. Estimates
    that are not in units of the target have no measures of size. The reason of a skipped estimate
    stands once, under the first measure.
    """
    measures: dict[str, tuple[str, Measure]] = {
        name: (name, measure) for name, measure in (OVER_ALL | IN_UNITS).items()
    }
    for k in ks:
        for name, measure_at_k in AT_K.items():
            measures[f"{name}_at_{k}"] = (name, partial(_at, measure_at_k, k))
    agreements: dict[str, Agreement] = {}
    for full, (name, measure) in measures.items():
        if only is not None and name not in only:
            continue
        answers: Agreement = {}
        for estimator, estimate in estimates.items():
            if isinstance(estimate, Skipped):
                answers |= {} if agreements else {estimator: estimate}
            elif name not in IN_UNITS or in_units[estimator]:
                part = name in AT_K and not whole
                answers[estimator] = ONLY_A_PART if part else measure(estimate, effect)
        agreements[full] = answers
    return agreements


def _at(
    measure: Callable[[Tensor, Tensor, int], float | Skipped], k: int, a: Tensor, b: Tensor
) -> float | Skipped:
    return measure(a, b, k)
