"""From climbs on single prompts to scores: means with intervals, and tables for figures."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from gradsae.interfaces import Scores, Skipped
from gradsae.stats.intervals import prompts_interval
from gradsae.steering.climb import Climb
from gradsae.steering.prediction import Statistic, predicts, predicts_better
from gradsae.steering.selectors import MAIN

CONTROL = "random_matched"
Table = dict[str, list[Any]]


def summarise(
    climbs: Sequence[Climb], singles: Sequence[dict[str, Any]], names: Sequence[str], seed: int
) -> Scores:
    """Return the scores of `SteeringBudget`; there must be a climb."""
    out = Scores(scores={}, n={"budget/prompts": len({c.prompt for c in climbs})})
    control = {c.prompt: c.at_kl.value for c in climbs if c.selector == CONTROL}
    for selector in dict.fromkeys(c.selector for c in climbs):
        mine = [c for c in climbs if c.selector == selector]
        _add(out, f"budget/effect_at_kl/{selector}", [c.at_kl.value for c in mine], seed)
        _add(out, f"budget/reached/{selector}", [float(c.at_kl.reached) for c in mine], seed)
        by_ppl = [c.at_ppl for c in mine if c.at_ppl is not None]
        _add(out, f"budget/effect_at_ppl/{selector}", [end.value for end in by_ppl], seed)
        _add(out, f"budget/reached_ppl/{selector}", [float(e.reached) for e in by_ppl], seed)
        _add(out, f"budget/safe_effect/{selector}", [c.safe_effect for c in mine], seed)
        _add(out, f"budget/safe_dose/{selector}", [c.safe_dose for c in mine], seed)
        _add(out, f"budget/flips/{selector}", _safe(mine, "flips", 0.0), seed)
        _add(out, f"budget/stability/{selector}", _safe(mine, "stability", 0.5), seed)
        _add_ppl(out, selector, mine, seed)
        _add_slope_gap(out, selector, mine)
        if selector != CONTROL:
            ahead = [c.at_kl.value - control[c.prompt] for c in mine]
            _add(out, f"budget/advantage/{selector}", ahead, seed)
    out.series["budget/ladder"] = ladder_table(climbs, seed)
    out.series["budget/trials"] = trials_table(climbs)
    if singles:
        table = {name: [row[name] for row in singles] for name in singles[0]}
        out.series["budget/latents"] = table
        _add_predictions(out, table, names, seed)
    return out


def _safe(climbs: Sequence[Climb], field: str, without: float) -> list[float]:
    values = [c.at_safe(getattr(c, field), without) for c in climbs]
    return [value for value in values if value is not None]


def _add(out: Scores, name: str, values: Sequence[float], seed: int) -> None:
    if not values:
        return
    column = torch.tensor(values, dtype=torch.float64)
    out.scores[name], out.n[name] = column.mean().item(), len(values)
    if len(values) > 1:
        out.intervals[name] = prompts_interval(values, seed)


def _add_ppl(out: Scores, selector: str, climbs: Sequence[Climb], seed: int) -> None:
    """Add the geometric mean of the perplexity ratios: their logs are averaged."""
    name = f"budget/ppl_ratio/{selector}"
    _add(out, name, _safe(climbs, "log_ppl_ratio", 0.0), seed)
    if name in out.scores:
        out.scores[name] = float(torch.tensor(out.scores[name]).double().exp())
    if name in out.intervals:
        low, high = (float(torch.tensor(end).double().exp()) for end in out.intervals[name])
        out.intervals[name] = (low, high)


def _add_slope_gap(out: Scores, selector: str, climbs: Sequence[Climb]) -> None:
    total = sum(abs(c.slope.gradient) for c in climbs)
    name = f"budget/slope_gap/{selector}"
    if total == 0:
        out.skipped[name] = "every gradient is 0"
        return
    out.scores[name] = sum(abs(c.slope.difference - c.slope.gradient) for c in climbs) / total
    out.n[name] = len(climbs)


def _add_predictions(out: Scores, table: Table, names: Sequence[str], seed: int) -> None:
    for name in names:
        statistics: dict[str, Statistic | Skipped] = {
            f"budget/predicts/{name}": predicts(table, name, seed),
            f"budget/predicts_signed/{name}": predicts(table, name, seed, signed=True),
        }
        if name != MAIN:
            better = predicts_better(table, MAIN, name, seed)
            statistics[f"budget/grad_predicts_better/{name}"] = better
        for score, value in statistics.items():
            if isinstance(value, Skipped):
                out.skipped[score] = value.reason
                continue
            out.scores[score], out.n[score] = value.mean, value.n
            if value.low is not None and value.high is not None:
                out.intervals[score] = (value.low, value.high)


def ladder_table(climbs: Sequence[Climb], seed: int) -> Table:
    """Return one row per selector and step: means over prompts, and the interval of the effect."""
    table: Table = defaultdict(list)
    for selector in dict.fromkeys(c.selector for c in climbs):
        mine = [c for c in climbs if c.selector == selector]
        for i, dose in enumerate(mine[0].doses):
            effects = torch.stack([c.effect[i] for c in mine])
            low, high = prompts_interval(effects.tolist(), seed) if len(mine) > 1 else (None, None)
            line = {
                "selector": selector,
                "dose": float(dose),
                "effect": effects.mean().item(),
                "effect_low": low,
                "effect_high": high,
                "kl_rest": torch.stack([c.kl_rest[i] for c in mine]).mean().item(),
                "safe": sum(c.n_safe > i for c in mine) / len(mine),
                "n": len(mine),
            }
            for name, value in line.items():
                table[name].append(value)
    return dict(table)


def trials_table(climbs: Sequence[Climb]) -> Table:
    """Return one row per prompt and selector."""
    table: Table = defaultdict(list)
    for c in climbs:
        line = {
            "prompt": c.prompt,
            "selector": c.selector,
            "effect_at_kl": c.at_kl.value,
            "reached": c.at_kl.reached,
            "effect_at_ppl": c.at_ppl.value if c.at_ppl else None,
            "reached_ppl": c.at_ppl.reached if c.at_ppl else None,
            "safe_dose": float(c.safe_dose),
            "safe_effect": c.safe_effect,
            "flips": c.at_safe(c.flips, 0.0),
            "stability": c.at_safe(c.stability, 0.5),
            "log_ppl_ratio": c.at_safe(c.log_ppl_ratio, 0.0),
            "slope": c.slope.gradient,
            "slope_difference": c.slope.difference,
        }
        for name, value in line.items():
            table[name].append(value)
    return dict(table)
