"""A GBA configuration for some data, with the reason of each setting."""

from typing import NamedTuple

from gradsae.suitability import theorem
from gradsae.suitability.conditions import Numbers
from gradsae.suitability.quantities import Raw

LATENTS_PER_FEATURE = 4
"""What conf/trainer/gba.yaml was tuned at, on the paper's toy (512 latents, 128 features)."""
LEAST_GROUPS = 10
"""The paper's ablation: results are stable from 10 groups on."""
LARGEST_STEP = 2.0
"""Most between the targets of neighbouring groups: about that of the paper's own settings."""


class Setting(NamedTuple):
    override: str
    """Hydra override, as a person pastes it."""
    why: str


def proposal(bounds: Numbers, raw: Raw) -> list[Setting]:
    """Return the settings of `python -m benchmarks.run trainer=gba` for these features."""
    low, high, why = targets(bounds)
    groups = LEAST_GROUPS
    while (high / low) ** (1 / (groups - 1)) > LARGEST_STEP:
        groups += 1
    step = (high / low) ** (1 / (groups - 1))
    d_sae = 1 << (LATENTS_PER_FEATURE * bounds.n - 1).bit_length()
    ceiling = d_sae * sum(high / step**k for k in range(groups)) / groups
    spread = theorem.within_constant(raw.norm_ratio) != "met"
    centre = raw.mean_share >= theorem.MUCH_LESS
    return [
        Setting("trainer=gba", "the recipe of conf/trainer/gba.yaml"),
        Setting(f"trainer.htf={high:.3g}", f"highest target: {why[1]}"),
        Setting(f"trainer.ltf={low:.3g}", f"lowest target: {why[0]}"),
        Setting(
            f"trainer.groups={groups}",
            f"neighbouring targets differ by a factor of {step:.2f}; at least {LEAST_GROUPS}, "
            f"at most {LARGEST_STEP:g} apart",
        ),
        Setting(
            f"d_sae={d_sae}",
            f"power of two from {LATENTS_PER_FEATURE} latents for each of {bounds.n} features on; "
            f"the targets then allow an l0 of {ceiling:.3g} at most",
        ),
        Setting(
            f"trainer.normalise={'token' if spread else 'unit'}",
            "norms of rows differ by more than a constant" if spread else "one scale fits all rows",
        ),
        Setting(
            f"trainer.centre={str(centre).lower()}",
            f"the mean holds {100 * raw.mean_share:.2g} % of the mean square",
        ),
    ]


def targets(bounds: Numbers) -> tuple[float, float, tuple[str, str]]:
    """Return the lowest and the highest target rate, and why these."""
    band = bounds.band
    if band.high <= band.low:  # s < 3: the bounds cross whatever the data
        middle = bounds.middle_rate
        high = max(middle, min(middle**0.5, middle * bounds.effective_d, 1.0))
        return middle, high, ("the median rate f", "sqrt(f), since the bounds of the theorem cross")
    upper = f"the theorem's upper bound, set by {band.binds}"
    low = max(band.low, bounds.low_rate)
    if low >= band.high:
        return band.low, band.high, ("1 / n, since every rate is above the upper bound", upper)
    lower = "1 / n, a bound of the theorem" if low == band.low else "rate of the rarest features"
    return low, band.high, (lower, upper)
