"""Consistency: do SAEs that differ only in their seed find the same directions?

Only latents that fire on the held-out rows count, as sources and as targets. Cosines are signed.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from scipy.special import stdtrit  # scipy.stats would take a second to import
from torch import Tensor
from torch.nn.functional import normalize

from gradsae.interfaces import Scores
from gradsae.metrics.common import control_name
from gradsae.metrics.matching import BLOCK, max_cosines, one_to_one
from gradsae.metrics.selection import RULES, Run, n_top, ranked, rules_for
from gradsae.sae.directions import random_directions
from gradsae.seeds import make_generator
from gradsae.stats.bootstrap import LEVEL

TAU = 0.9
MCS = f"consistency/mcs_{TAU}"
COSINE = "consistency/max_cosine"
PW_MCC = "consistency/pw_mcc"
CONTROLLED = (MCS, COSINE, PW_MCC)
"""Scores with a chance level."""
LOWEST = {COSINE: -1.0, PW_MCC: -1.0}
"""Least value of the scores that may be negative."""
ALPHAS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Top shares of the live latents in the series; the paper goes down to .05 %."""
SELECTIONS = {
    f"{MCS}/top_{rule}_{percent}": (rule, percent / 100) for rule in RULES for percent in (1, 5)
}
"""Variants of MCS: the rule that ranks the latents, and the top share that is kept."""
SERIES = "consistency/selection"


class Overlap(NamedTuple):
    """How well another run holds some latents of one run."""

    share: float
    """Share of these latents with a cosine above TAU to some live latent of the other run."""
    cosine: float
    """Mean of the largest cosines."""


Table = dict[tuple[str, float], Overlap]
"""By rule and top share."""


def pair_table(first: Run, second: Run) -> Table:
    """Compare the latents that each rule ranks first with the other run; means of both directions.

    A rule picks latents on one side; the other side offers all its live latents.
    """
    best = max_cosines(first.directions[first.live], second.directions[second.live])
    table = {}
    for rule in rules_for((first, second)):
        sides = [
            cosines[ranked(run, rule)].double()
            for run, cosines in ((first, best.a), (second, best.b))
        ]
        for alpha in ALPHAS:
            chosen = [cosines[: n_top(len(cosines), alpha)] for cosines in sides]
            table[rule, alpha] = Overlap(
                share=sum((cosines > TAU).double().mean().item() for cosines in chosen) / 2,
                cosine=sum(cosines.mean().item() for cosines in chosen) / 2,
            )
    return table


def pair_scores(first: Run, second: Run, table: Table) -> dict[str, float]:
    """Return every score of one pair of runs."""
    everything = table["act", 1.0]  # the share 1 is all latents, by any rule
    live = [run.directions[run.live] for run in (first, second)]
    return {
        MCS: everything.share,
        **{name: table[chosen].share for name, chosen in SELECTIONS.items() if chosen in table},
        COSINE: everything.cosine,
        PW_MCC: pair_mcc(*live),
    }


def pair_mcc(a: Float[Tensor, "n_a d_in"], b: Float[Tensor, "n_b d_in"]) -> float:
    """Summed cosine of the best one-to-one matching over the size of the larger dictionary."""
    return one_to_one(a, b).cosine.double().sum().item() / max(len(a), len(b))


class Estimate(NamedTuple):
    mean: float
    se: float | None
    """Jackknife standard error; None below three runs."""


def over_pairs(values: dict[tuple[int, int], float], n_runs: int) -> Estimate:
    """Return the mean over unordered pairs of runs, and its jackknife standard error.

    Pairs share runs, so they are not independent: runs are left out one at a time, not pairs.
    """
    mean = sum(values.values()) / len(values)
    if n_runs < 3:
        return Estimate(mean, None)
    without = []
    for run in range(n_runs):
        remaining = [value for pair, value in values.items() if run not in pair]
        without.append(sum(remaining) / len(remaining))
    centre = sum(without) / n_runs
    variance = (n_runs - 1) / n_runs * sum((value - centre) ** 2 for value in without)
    return Estimate(mean, variance**0.5)


def self_cosines(run: Run) -> Float[Tensor, " n_live"]:
    """Return the largest cosine of each live latent with another of its own run; -1 if alone."""
    W = normalize(run.directions[run.live], dim=1)
    best = []
    for start, rows in zip(range(0, len(W), BLOCK), W.split(BLOCK), strict=True):
        cosine = (rows @ W.mT).clamp_(-1, 1)
        cosine.diagonal(start).fill_(-1.0)
        best.append(cosine.amax(1))
    return torch.cat(best).double()


def self_scores(runs: Sequence[Run]) -> dict[str, float]:
    """Return the scores of each run against itself, no latent matched with itself; means."""
    cosines = [self_cosines(run) for run in runs]
    shares = [(cosine > TAU).double().mean().item() for cosine in cosines]
    means = [cosine.mean().item() for cosine in cosines]
    return {f"{MCS}/own": sum(shares) / len(runs), f"{COSINE}/own": sum(means) / len(runs)}


def score_pairs(runs: Sequence[Run]) -> Scores:
    """Return all consistency scores of some runs, without controls."""
    pairs = list(combinations(range(len(runs)), 2))
    tables = {(i, j): pair_table(runs[i], runs[j]) for i, j in pairs}
    scored = {(i, j): pair_scores(runs[i], runs[j], tables[i, j]) for i, j in pairs}
    scores, intervals = {}, {}
    for name in scored[pairs[0]]:
        mean, se = over_pairs({pair: scored[pair][name] for pair in pairs}, len(runs))
        scores[name] = mean
        if se is not None:
            half = float(stdtrit(len(runs) - 1, (1 + LEVEL) / 2)) * se
            intervals[name] = (max(LOWEST.get(name, 0.0), mean - half), min(1.0, mean + half))
    n = dict.fromkeys(scores, len(pairs))
    series = {SERIES: selection_series(list(tables.values()))}
    return Scores(scores=scores, intervals=intervals, n=n, series=series)


def selection_series(tables: Sequence[Table]) -> dict[str, list[Any]]:
    """Return columns rule, alpha, share and cosine: means over pairs."""
    columns: dict[str, list[Any]] = {"rule": [], "alpha": [], "share": [], "cosine": []}
    for rule, alpha in tables[0]:
        overlaps = [table[rule, alpha] for table in tables]
        columns["rule"].append(rule)
        columns["alpha"].append(alpha)
        columns["share"].append(sum(overlap.share for overlap in overlaps) / len(overlaps))
        columns["cosine"].append(sum(overlap.cosine for overlap in overlaps) / len(overlaps))
    return columns


def random_run(run: Run, generator: torch.Generator) -> Run:
    """Return a run of random unit directions, as many as there are live latents, of one rank."""
    n, d_in = int(run.live.sum()), run.directions.shape[1]
    zeros = torch.zeros(n)
    return Run(
        name=run.name,
        directions=random_directions(n, d_in, generator),
        live=torch.ones(n, dtype=torch.bool),
        **dict.fromkeys(RULES.values(), zeros),
    )


def consistency(runs: Sequence[Run], seed: int) -> Scores:
    """Score how much the dictionaries of `runs` have in common, over all pairs.

    `Consistency` declares the scores. Only live latents count; cosines are signed. MCS is the
    maximum cosine similarity of the GBA paper (2506.14002, v1 figure 5). With as many latents on
    both sides, `pw_mcc` is PW-MCC (Song et al. 2025, https://arxiv.org/abs/2505.20254).

    - `mcs_0.9/top_RULE_1`, `/top_RULE_5`: the share among the 1 % and 5 % of each run's latents
      that a rule ranks first, at least one latent. Rules, over the held-out rows: `act`, largest
      peak (value times norm of the direction); `z`, Z-score (`selection.z_scores`); `rate`, firing
      rate; `mean`, mean of value times norm over the rows where the latent fires.
    - `/chance`: random unit directions, as many as each run has live latents. A rule picks among
      random directions at random, so `mcs_0.9/chance` stands for every selection.
    - `mcs_0.9/own`, `max_cosine/own`: each run against itself, no latent matched with itself; mean
      over runs. Directions that crowd around one vector match those of any other dictionary that
      crowds there. Seeds agree only as far as they exceed this.
    - series `consistency/selection`: by rule and top share alpha, the share above 0.9 and the mean
      largest cosine; means over pairs, both ways.

    `n` counts unordered pairs. With three runs or more there are intervals: mean +- t * jackknife
    standard error over left-out runs, 95 %, n_runs - 1 degrees of freedom, cut to the range.
    """
    if len(runs) < 2:
        raise ValueError(f"consistency compares at least 2 runs, got {len(runs)}")
    widths = {run.name: run.directions.shape[1] for run in runs}
    if len(set(widths.values())) > 1:
        raise ValueError(f"consistency needs runs of one d_in, got {widths}")
    silent = [run.name for run in runs if not bool(run.live.any())]
    if silent:
        reason = f"no latent of {', '.join(silent)} fires on the held-out rows"
        return Scores(scores={}, skipped=dict.fromkeys((MCS, *SELECTIONS, COSINE, PW_MCC), reason))
    generator = make_generator(seed, "eval random directions")
    scores = score_pairs(runs)
    control = score_pairs([random_run(run, generator) for run in runs])
    chance = {control_name(k): control.scores[k] for k in CONTROLLED}
    against_self = self_scores(runs)
    n = scores.n | dict.fromkeys(chance, len(runs) * (len(runs) - 1) // 2)
    n |= dict.fromkeys(against_self, len(runs))
    unranked = [name for name in SELECTIONS if name not in scores.scores]
    return Scores(
        scores=scores.scores | chance | against_self,
        intervals=scores.intervals,
        n=n,
        series=scores.series,
        skipped=dict.fromkeys(unranked, "a Z-score needs a linear encoder, and this SAE has none"),
    )
