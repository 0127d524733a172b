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
from gradsae.metrics.selection import RULES, Run, n_kept, ranked, rules_for
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


class Found(NamedTuple):
    """How well some latents of one run are found in another."""

    share: float
    """With a cosine above TAU to some live latent."""
    cosine: float
    """Mean of the largest cosines."""


Table = dict[tuple[str, float], Found]
"""By rule and top share."""


def pair_table(first: Run, second: Run) -> Table:
    """How the latents of one run that a rule ranks first are found in the other; both ways, mean.

    A rule picks latents on one side; the other side always offers all its live latents.
    """
    best = max_cosines(first.directions[first.live], second.directions[second.live])
    table = {}
    for rule in rules_for((first, second)):
        sides = [run[ranked(of, rule)].double() for of, run in ((first, best.a), (second, best.b))]
        for alpha in ALPHAS:
            kept = [cosine[: n_kept(len(cosine), alpha)] for cosine in sides]
            table[rule, alpha] = Found(
                share=sum((cosine > TAU).double().mean().item() for cosine in kept) / 2,
                cosine=sum(cosine.mean().item() for cosine in kept) / 2,
            )
    return table


def pair_scores(first: Run, second: Run, table: Table) -> dict[str, float]:
    """Return every score of one pair of runs."""
    everything = table["act", 1.0]  # by any rule: all latents are kept
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
        left = [value for pair, value in values.items() if run not in pair]
        without.append(sum(left) / len(left))
    centre = sum(without) / n_runs
    variance = (n_runs - 1) / n_runs * sum((value - centre) ** 2 for value in without)
    return Estimate(mean, variance**0.5)


def own_cosines(run: Run) -> Float[Tensor, " n_live"]:
    """Return the largest cosine of each live latent with another of its own run; -1 if alone."""
    W = normalize(run.directions[run.live], dim=1)
    best = []
    for start, rows in zip(range(0, len(W), BLOCK), W.split(BLOCK), strict=True):
        cosine = (rows @ W.mT).clamp_(-1, 1)
        cosine.diagonal(start).fill_(-1.0)
        best.append(cosine.amax(1))
    return torch.cat(best).double()


def own_scores(runs: Sequence[Run]) -> dict[str, float]:
    """Return what a run would score against itself if no latent might match itself; means."""
    cosines = [own_cosines(run) for run in runs]
    shares = [(cosine > TAU).double().mean().item() for cosine in cosines]
    means = [cosine.mean().item() for cosine in cosines]
    return {f"{MCS}/own": sum(shares) / len(runs), f"{COSINE}/own": sum(means) / len(runs)}


def score_pairs(runs: Sequence[Run]) -> Scores:
    """All consistency scores of some runs, none of them a control."""
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
        found = [table[rule, alpha] for table in tables]
        columns["rule"].append(rule)
        columns["alpha"].append(alpha)
        columns["share"].append(sum(one.share for one in found) / len(found))
        columns["cosine"].append(sum(one.cosine for one in found) / len(found))
    return columns


def random_run(run: Run, generator: torch.Generator) -> Run:
    """Return as many random unit directions as a run has live latents; no latent ranks higher."""
    n, d_in = int(run.live.sum()), run.directions.shape[1]
    none = torch.zeros(n)
    return Run(
        name=run.name,
        directions=random_directions(n, d_in, generator),
        live=torch.ones(n, dtype=torch.bool),
        **dict.fromkeys(RULES.values(), none),
    )


def consistency(runs: Sequence[Run], seed: int) -> Scores:
    """How much of what one SAE found the others found, over all pairs of `runs`.

    - `consistency/mcs_0.9` in [0, 1], up: share of the live latents of one run whose largest signed
      cosine with the live latents of another is above 0.9; mean over ordered pairs of runs
      (GBA paper, 2506.14002, v1 figure 5: max cosine similarity).
    - `.../top_RULE_1`, `.../top_RULE_5`: the same share among the 1 % and 5 % of each run's live
      latents that a rule ranks first, at least one latent. Rules, over the held-out rows: `act`,
      largest peak (value times norm of the direction); `z`, Z-score (`selection.z_scores`);
      `rate`, firing rate; `mean`, mean of value times norm over the rows where the latent fires.
    - `consistency/max_cosine` in [-1, 1], up: mean of those largest cosines over all live latents.
    - `consistency/pw_mcc` in [-1, 1], up: signed cosines of the best one-to-one matching of two
      runs' live latents, summed, over the larger number of live latents; mean over pairs. With
      equal numbers this is PW-MCC (Song et al. 2025, https://arxiv.org/abs/2505.20254); a latent
      without a partner counts 0 here.
    - `/chance` of all three: random unit directions, as many as each run has live latents. A rule
      picks among random directions at random, so the first stands for every selection.
    - `mcs_0.9/own`, `max_cosine/own`: the same of each run against itself, no latent matching
      itself; mean over runs. A dictionary whose directions crowd (around the mean activation, say)
      is found in any other that crowds likewise: what seeds share is consistency beyond this.
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
    found = score_pairs(runs)
    control = score_pairs([random_run(run, generator) for run in runs])
    chance = {control_name(k): control.scores[k] for k in CONTROLLED}
    own = own_scores(runs)
    n = found.n | dict.fromkeys(chance, len(runs) * (len(runs) - 1) // 2)
    n |= dict.fromkeys(own, len(runs))
    unranked = [name for name in SELECTIONS if name not in found.scores]
    return Scores(
        scores=found.scores | chance | own,
        intervals=found.intervals,
        n=n,
        series=found.series,
        skipped=dict.fromkeys(unranked, "a Z-score needs a linear encoder, and this SAE has none"),
    )
