"""Summary: from trials on single prompts to scores with intervals, and to the dose-response."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.interfaces import Scores
from gradsae.stats.bootstrap import percentiles, resampled_means
from gradsae.steering.interventions import OFF, Intervention
from gradsae.steering.selectors import MAIN
from gradsae.steering.trial import Trial

NO_UNRELATED_TEXT = "no latent fires on any window of unrelated text"


class Means(NamedTuple):
    """Means over prompts with 95 % intervals; no interval for a single prompt."""

    mean: Float[Tensor, " doses"]
    low: Float[Tensor, " doses"] | None
    high: Float[Tensor, " doses"] | None


def means(values: Float[Tensor, "prompts doses"], seed: int) -> Means:
    if len(values) < 2:
        return Means(values.mean(0), None, None)
    return Means(values.mean(0), *percentiles(resampled_means(values, seed)))


def summarise(trials: Sequence[Trial], interventions: Sequence[Intervention], seed: int) -> Scores:
    """Return the scores of `Steering`, from one trial or more of the main selector."""
    out = Scores(scores={}, forward_equivalents=sum(t.forward_equivalents for t in trials))
    off_index = list(interventions).index(OFF)
    rows: list[dict[str, Any]] = []
    for selector in dict.fromkeys(trial.selector for trial in trials):
        mine = [trial for trial in trials if trial.selector == selector]
        names = [f"/{selector}", ""] if selector == MAIN else [f"/{selector}"]
        for variant in names:
            _add_off_scores(out, mine, off_index, variant, seed)
        rows += _curve(selector, mine, interventions, seed)
    _add_controls(out, trials, off_index, seed)
    _add_slope(out, [trial for trial in trials if trial.selector == MAIN])
    out.series["steering/dose_response"] = {name: [row[name] for row in rows] for name in rows[0]}
    out.series["steering/trials"] = trials_table(trials, interventions)
    return out


def trials_table(
    trials: Sequence[Trial], interventions: Sequence[Intervention]
) -> dict[str, list[Any]]:
    """Return one row per prompt, selector and intervention, from which the means are computed."""
    rows = [
        {
            "prompt": trial.prompt,
            "selector": trial.selector,
            "mode": intervention.mode,
            "dose": intervention.dose,
            "effect": trial.effect[i].item(),
            "kl_rest": trial.kl_rest[i].item(),
            "log_ppl_ratio": None if trial.log_ppl_ratio is None else trial.log_ppl_ratio[i].item(),
        }
        for trial in trials
        for i, intervention in enumerate(interventions)
    ]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _add_off_scores(
    out: Scores, trials: Sequence[Trial], off_index: int, variant: str, seed: int
) -> None:
    """Add the scores of switching the latents off, under names that end in `variant`."""
    effect = torch.stack([-trial.effect[off_index] for trial in trials])
    kl = torch.stack([trial.kl_rest[off_index] for trial in trials])
    _add_mean(out, f"steering/effect{variant}", effect, seed)
    _add_mean(out, f"steering/kl_rest{variant}", kl, seed)
    _add_selectivity(out, f"steering/selectivity{variant}", effect, kl, seed)
    rises = [trial.log_ppl_ratio[off_index] for trial in trials if trial.log_ppl_ratio is not None]
    name = f"steering/ppl_ratio{variant}"
    if rises:
        _add_mean(out, name, torch.stack(rises), seed, exp=True)
    else:
        out.skipped[name] = NO_UNRELATED_TEXT


def _add_mean(
    out: Scores, name: str, values: Float[Tensor, " prompts"], seed: int, *, exp: bool = False
) -> None:
    """Add the mean over prompts; with `exp`, of logarithms, as a geometric mean."""
    mean, low, high = means(values[:, None], seed)
    out.scores[name] = (mean.exp() if exp else mean).item()
    out.n[name] = len(values)
    if low is not None and high is not None:
        ends = (low.exp(), high.exp()) if exp else (low, high)
        out.intervals[name] = (ends[0].item(), ends[1].item())


def _add_selectivity(
    out: Scores,
    name: str,
    effect: Float[Tensor, " prompts"],
    kl: Float[Tensor, " prompts"],
    seed: int,
) -> None:
    """Add mean effect over the root of twice the mean KL; the interval resamples both."""
    if kl.mean() == 0:
        out.skipped[name] = "the rest of the distribution did not move at all"
        return
    out.scores[name] = (effect.mean() / (2 * kl.mean()).sqrt()).item()
    out.n[name] = len(effect)
    if len(effect) > 1:
        both = resampled_means(torch.stack([effect, kl], 1), seed)
        ratio = both[:, :1] / (2 * both[:, 1:]).sqrt()
        if bool(ratio.isfinite().all()):
            low, high = percentiles(ratio)
            out.intervals[name] = (low.item(), high.item())


def _add_controls(out: Scores, trials: Sequence[Trial], off_index: int, seed: int) -> None:
    """Add the match of the matched latents, and the advantage of the main choice over them."""
    main = {trial.prompt: trial for trial in trials if trial.selector == MAIN}
    matched = [trial for trial in trials if trial.match_gap is not None]
    if not matched:
        return
    gaps = torch.tensor([trial.match_gap for trial in matched], dtype=torch.float64)
    _add_mean(out, "steering/match_gap", gaps, seed)
    ahead = [
        control.effect[off_index] - main[control.prompt].effect[off_index] for control in matched
    ]
    _add_mean(out, "steering/advantage", torch.stack(ahead), seed)


def _add_slope(out: Scores, trials: Sequence[Trial]) -> None:
    slopes = [trial.slope for trial in trials if trial.slope is not None]
    gradient = torch.tensor([s.gradient for s in slopes], dtype=torch.float64)
    difference = torch.tensor([s.difference for s in slopes], dtype=torch.float64)
    out.scores["steering/slope"] = gradient.mean().item()
    out.n["steering/slope"] = out.n["steering/slope_gap"] = len(slopes)
    total = gradient.abs().sum().item()
    if total == 0:
        out.skipped["steering/slope_gap"] = "every gradient is 0"
        del out.n["steering/slope_gap"]
    else:
        gap = (difference - gradient).abs().sum().item() / total
        out.scores["steering/slope_gap"] = gap


def _curve(
    selector: str, trials: Sequence[Trial], interventions: Sequence[Intervention], seed: int
) -> list[dict[str, Any]]:
    """Return one row per intervention: means and intervals over prompts; null if there is none."""
    effect = means(torch.stack([trial.effect for trial in trials]), seed)
    kl = means(torch.stack([trial.kl_rest for trial in trials]), seed)
    rises = [trial.log_ppl_ratio for trial in trials if trial.log_ppl_ratio is not None]
    ppl = means(torch.stack(rises), seed) if rises else Means(torch.zeros(0), None, None)
    return [
        {
            "selector": selector,
            "mode": intervention.mode,
            "dose": intervention.dose,
            "effect": effect.mean[i].item(),
            "effect_low": _at(effect.low, i),
            "effect_high": _at(effect.high, i),
            "kl_rest": kl.mean[i].item(),
            "kl_low": _at(kl.low, i),
            "kl_high": _at(kl.high, i),
            "ppl_ratio": ppl.mean[i].exp().item() if rises else None,
            "n": len(trials),
        }
        for i, intervention in enumerate(interventions)
    ]


def _at(values: Float[Tensor, " doses"] | None, i: int) -> float | None:
    return None if values is None else values[i].item()
