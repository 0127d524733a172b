"""The conditions of the theorem, one function each: estimate, what is wanted, verdict, why."""

from typing import NamedTuple

import torch

from gradsae.suitability import quantities, theorem
from gradsae.suitability.evidence import Evidence
from gradsae.suitability.quantities import Raw
from gradsae.suitability.theorem import Band, Estimate, Verdict, exactly

TAIL = 0.05
"""The rarest and the most frequent features left out of a ratio where rates are counted, since the
extremes of noisy numbers are too far apart; with exact rates none is left out."""
CLOSE = 0.8
"""Two features above this cosine are one for the recovery rate at tau = .8, the loosest reported:
whatever finds one is counted as finding the other."""
FULL = 0.9
"""A family that uses this share of its ceiling gives no evidence about what lies beyond."""


class Finding(NamedTuple):
    """One condition, as one family of features sees it."""

    name: str
    estimate: str
    wants: str
    verdict: Verdict
    why: str
    counts: bool = True
    """Whether the overall verdict depends on it."""


class Numbers(NamedTuple):
    """What the bounds of the theorem and the proposal are computed from."""

    n: int
    s: float
    """Mean active features of a row."""
    low_rate: float
    middle_rate: float
    high_rate: float
    effective_s: float
    effective_d: float
    band: Band


def numbers(evidence: Evidence, raw: Raw) -> Numbers:
    rates = rates_of(evidence)
    tail = 0.0 if evidence.rates is not None else TAIL
    quantiles = rates.new_tensor([tail, 0.5, 1 - tail])
    low, middle, high = torch.quantile(rates[rates > 0], quantiles).tolist()
    s, d = max(1.0, quantities.support(evidence.codes).mean), raw.effective_d.value
    share = quantities.least_share(evidence.codes, TAIL)
    band = theorem.band(evidence.n, s, d)
    return Numbers(evidence.n, s, low, middle, high, share**-2, d, band)


def rates_of(evidence: Evidence) -> torch.Tensor:
    if evidence.rates is not None:
        return evidence.rates.double()
    return evidence.codes.fired().double() / evidence.codes.n_rows


def findings(evidence: Evidence, raw: Raw, d_sae: int) -> list[Finding]:
    """Return every condition in the order of the theorem: codes, directions, data, targets."""
    bounds = numbers(evidence, raw)
    return [
        sparsity(evidence),
        balance(evidence),
        sizes(evidence),
        co_occurrence(evidence),
        coherence(evidence),
        dimension(evidence, raw),
        norms(raw),
        mean(raw),
        target_band(bounds, evidence),
        width(bounds, d_sae),
    ]


def sparsity(evidence: Evidence) -> Finding:
    """H1: every row has at most s active features, and s^2 << n."""
    size, p99 = quantities.support(evidence.codes), quantities.p99_interval(evidence.codes)
    ratio = Estimate(*(value**2 / evidence.n for value in p99))
    verdict, why = theorem.much_less(ratio), f"s^2 / n = {show(ratio)} at the 99th percentile"
    if evidence.ceiling is not None and size.median >= FULL * evidence.ceiling:
        verdict = theorem.worst([verdict, "doubtful"])
        why += f"; circular: rows are at the {evidence.ceiling} this family was allowed"
    text = f"s = {size.median:g} median, {p99.value:g} at 99 %, {size.largest} most"
    return Finding("sparsity", text, "s^2 << n", verdict, why)


def balance(evidence: Evidence) -> Finding:
    """All rates are of the order 1 / n."""
    ratio, exact = rate_ratio(evidence), evidence.rates is not None
    basis = "max / min, exact rates" if exact else "95th / 5th percentile, counted rates"
    middle = rates_of(evidence).median().item()
    return Finding(
        "rates",
        f"{show(ratio)}, median rate {middle:.3g}",
        "max f / min f constant",
        theorem.within_constant(ratio),
        basis,
    )


def rate_ratio(evidence: Evidence) -> Estimate:
    """Return the largest rate over the least: exact, or counted and without the tails."""
    if evidence.rates is None:
        return quantities.rate_ratio(evidence.codes, TAIL)
    rates = evidence.rates[evidence.rates > 0].double()
    return exactly((rates.max() / rates.min()).item())


def sizes(evidence: Evidence) -> Finding:
    """H2: the mean of h_i^2 where feature i is active is of one order for all i."""
    ratio = quantities.size_ratio(evidence.codes)
    least = quantities.LEAST_COUNT
    why = f"max / min over features active on {least} rows or more, counted"
    return Finding("sizes", show(ratio), "mean h^2 constant", theorem.within_constant(ratio), why)


def co_occurrence(evidence: Evidence) -> Finding:
    """H3: rho_2 << 1 / sqrt(n)."""
    rho = quantities.co_occurrence(evidence.codes)
    ratio = rho.scaled(evidence.n**0.5)
    return Finding(
        "co-occurrence",
        f"rho_2 = {show(rho)}",
        f"<< 1 / sqrt(n) = {evidence.n**-0.5:.3g}",
        theorem.much_less(ratio),
        f"rho_2 sqrt(n) = {show(ratio)}; pair picked on a quarter of the rows, counted on the rest",
    )


def coherence(evidence: Evidence) -> Finding:
    """V1: the largest cosine of two features is o(1)."""
    mu = quantities.coherence(evidence.directions)
    chance = quantities.random_coherence(evidence.n, evidence.directions.shape[1])
    if mu < theorem.MUCH_LESS:
        verdict, why = "met", "no two features are close"
    elif mu > CLOSE:
        verdict, why = "not met", f"above {CLOSE:g} two features count as one"
    else:
        verdict, why = "doubtful", "as close as random directions in so few dimensions"
        if mu > chance:
            why = "closer than random directions, which the theorem has"
    text = f"mu = {mu:.3g}, random {chance:.3g}"
    return Finding("coherence", text, "mu << 1", verdict, why)


def dimension(evidence: Evidence, raw: Raw) -> Finding:
    """The regime changes at d ~ sqrt(n): above it, rates up to n^(-1/2) are admitted."""
    d = raw.effective_d
    root = evidence.n**0.5
    ratio = Estimate(root / d.value, root / d.high, root / d.low)
    text = f"{show(d)} of {raw.d_in}, n / d = {evidence.n / raw.d_in:.3g}"
    verdict, why = theorem.much_less(ratio), f"sqrt(n) / effective d = {show(ratio)}"
    if evidence.n_ceiling is not None and evidence.n >= FULL * evidence.n_ceiling:
        verdict = theorem.worst([verdict, "doubtful"])
        why += f"; circular: the family is full at n = {evidence.n}, so there may be more"
    return Finding("dimension", text, "sqrt(n) << d", verdict, why)


def norms(raw: Raw) -> Finding:
    """GBA's clamp of biases to [-1, 0] presumes rows of one norm."""
    return Finding(
        "norms",
        show(raw.norm_ratio),
        "|x| constant",
        theorem.within_constant(raw.norm_ratio),
        "95th / 5th percentile of |x|; biases are clamped on one scale for all rows",
    )


def mean(raw: Raw) -> Finding:
    """x = h V has no bias beside what the features add."""
    share = raw.mean_share
    verdict: Verdict = "met" if share < theorem.MUCH_LESS else "doubtful"
    why = "a constant part is no feature"
    if verdict == "doubtful":
        why += "; it can be subtracted"
    text = f"|mean|^2 / mean |x|^2 = {share:.3g}"
    return Finding("mean", text, "<< 1", verdict, why)


def target_band(bounds: Numbers, evidence: Evidence) -> Finding:
    """Rates p with 1 / n, f <= p <= upper must exist for the features, with room."""
    band = bounds.band
    low = max(band.low, bounds.middle_rate)
    fit = (rates_of(evidence) <= band.high).double().mean().item()
    verdict = theorem.much_less(exactly(low / band.high))
    why = f"{100 * fit:.3g} % of the features have an admissible target"
    if verdict == "met" and fit < 1:
        verdict = "doubtful"
    if bounds.s < theorem.LEAST_S:
        verdict = "doubtful"
        why = f"at s = {bounds.s:.3g} < {theorem.LEAST_S} the formula says nothing"
    text = f"{low:.3g} to {band.high:.3g}, upper by {band.binds}"
    return Finding("target rates", text, "max(1 / n, f) << upper", verdict, why)


def width(bounds: Numbers, d_sae: int) -> Finding:
    """M >= n p^(-s / (1 - epsilon)^2), with 1 / h_*^2 for s and the largest admissible p."""
    needed = theorem.log_width(bounds.n, bounds.band.high, bounds.effective_s)
    gap = needed - torch.tensor(float(d_sae)).log10().item()
    verdict: Verdict = "met" if gap <= 0 else "not met"
    return Finding(
        "width",
        f"log10 of wanted / d_sae = {gap:.3g}",
        f"d_sae >= 10^{needed:.3g}",
        verdict,
        "not counted: far from necessary, no practical width meets it",
        counts=False,
    )


def show(estimate: Estimate) -> str:
    """Write `0.12 [0.1, 0.14]`, or the number alone where it is exact."""
    if estimate.low == estimate.high:
        return f"{estimate.value:.3g}"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


class Row(NamedTuple):
    """One condition, over all families."""

    name: str
    estimate: str
    wants: str
    verdict: Verdict
    why: str
    counts: bool


def combined(families: dict[str, list[Finding]]) -> list[Row]:
    """Return one row per condition; where the families' verdicts differ it is doubtful."""
    rows: list[Row] = []
    for views in zip(*families.values(), strict=True):
        first, verdicts = views[0], {view.verdict for view in views}
        verdict: Verdict = first.verdict if len(verdicts) == 1 else "doubtful"
        parts = {
            field: _joined(families, [getattr(view, field) for view in views])
            for field in ("estimate", "wants", "why")
        }
        if len(verdicts) > 1:
            parts["why"] = "the families disagree: " + parts["why"]
        rows.append(Row(first.name, verdict=verdict, counts=first.counts, **parts))
    return rows


def overall(rows: list[Row]) -> Verdict:
    """Return the worst verdict among the conditions that count."""
    return theorem.worst([row.verdict for row in rows if row.counts])


def _joined(families: dict[str, list[Finding]], texts: list[str]) -> str:
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(f"{name}: {text}" for name, text in zip(families, texts, strict=True))
