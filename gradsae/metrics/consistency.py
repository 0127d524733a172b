"""Consistency: do SAEs that differ only in their seed find the same directions?

Only latents that fire on the held-out rows count, as sources and as targets. Cosines are signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float
from scipy.special import stdtrit  # scipy.stats would take a second to import
from torch import Tensor

from gradsae.bootstrap import LEVEL
from gradsae.interfaces import Scores
from gradsae.metrics.common import control_name, directions, encode, random_directions
from gradsae.metrics.matching import max_cosines, one_to_one
from gradsae.sae import SAE
from gradsae.seeds import make_generator

TAU = 0.9
SELECTIONS = {
    "top_act_1": ("peak", 0.01),
    "top_act_5": ("peak", 0.05),
    "top_z_1": ("z", 0.01),
    "top_z_5": ("z", 0.05),
}
"""Variants of mcs_0.9: the statistic that ranks the latents, and the share of live ones kept."""
PW_MCC = "consistency/pw_mcc"
CONTROLLED = (f"consistency/mcs_{TAU}", PW_MCC)
"""Scores with a chance level."""
ENCODER_BLOCK = 1024


@final
@dataclass(frozen=True, kw_only=True)
class Run:
    """One SAE and what the held-out rows say of its latents."""

    name: str
    directions: Float[Tensor, "d_sae d_in"]
    live: Bool[Tensor, " d_sae"]
    """Fired on some row."""
    peak: Float[Tensor, " d_sae"]
    """Largest norm that the latent wrote: its value times the norm of its direction."""
    z: Float[Tensor, " d_sae"]
    """Z-score of its peak projection: see `z_scores`."""


def z_scores(
    x_in: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, " d_sae"]:
    """Return (max - mean) / std over rows of the projection of a row on each encoder direction.

    How far its best row stands out. Biases shift max and mean alike and drop out, so this is also
    the Z-score of the pre-activation. A projection that does not vary has Z-score 0. The GBA paper
    (2506.14002, v1 figures 5 to 7) selects by a Z-score whose formula we have not seen; this is
    ours.
    """
    parts = []
    for rows in W_enc.split(ENCODER_BLOCK):
        u = x_in @ rows.mT
        std = u.std(dim=0, correction=0)
        parts.append(torch.where(std > 0, (u.amax(0) - u.mean(0)) / std, 0.0))
    return torch.cat(parts).cpu()


@torch.no_grad()
def describe(sae: SAE, x: Float[Tensor, "batch d_in"], name: str) -> Run:
    """Return what consistency needs to know of an SAE; `x` is held-out rows without outliers."""
    live = torch.zeros(sae.arch.d_sae, dtype=torch.bool)
    peak = torch.zeros(sae.arch.d_sae)
    for _, codes in encode(sae, x):
        live |= codes.fired().cpu() > 0
        peak = torch.maximum(peak, codes.peak().cpu())
    written = directions(sae).cpu()
    x_in = sae.normaliser.apply(x.to(sae.b_dec)).x
    return Run(
        name=name,
        directions=written,
        live=live,
        peak=peak * written.norm(dim=1),
        z=z_scores(x_in, sae.W_enc.detach()),
    )


def select(run: Run, selection: str | None) -> Bool[Tensor, " n_live"]:
    """Return which live latents a selection keeps: all, or the top share, at least one."""
    n_live = int(run.live.sum())
    if selection is None:
        return torch.ones(n_live, dtype=torch.bool)
    field, share = SELECTIONS[selection]
    n_kept = max(1, round(share * n_live))
    kept = torch.zeros(n_live, dtype=torch.bool)
    kept[getattr(run, field)[run.live].argsort(descending=True, stable=True)[:n_kept]] = True
    return kept


def pair_mcs(first: Run, second: Run) -> dict[str, float]:
    """Share of the latents of one run with cosine above TAU to one of the other; both ways, mean.

    Each selection picks latents on one side; the other side always offers all its live latents.
    """
    best = max_cosines(first.directions[first.live], second.directions[second.live])
    scores = {}
    for selection in (None, *SELECTIONS):
        shares = [
            (cosines[select(run, selection)] > TAU).double().mean().item()
            for run, cosines in ((first, best.a), (second, best.b))
        ]
        scores[_mcs_name(selection)] = sum(shares) / 2
    return scores


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


def score_pairs(runs: Sequence[Run]) -> Scores:
    """All consistency scores of some runs, none of them a control."""
    pairs = list(combinations(range(len(runs)), 2))
    scored = {pair: pair_mcs(runs[pair[0]], runs[pair[1]]) for pair in pairs}
    for i, j in pairs:
        a, b = runs[i].directions[runs[i].live], runs[j].directions[runs[j].live]
        scored[i, j][PW_MCC] = pair_mcc(a, b)
    scores, intervals = {}, {}
    for name in scored[pairs[0]]:
        mean, se = over_pairs({pair: scored[pair][name] for pair in pairs}, len(runs))
        scores[name] = mean
        if se is not None:
            half = float(stdtrit(len(runs) - 1, (1 + LEVEL) / 2)) * se
            lowest = -1.0 if name == PW_MCC else 0.0
            intervals[name] = (max(lowest, mean - half), min(1.0, mean + half))
    return Scores(scores=scores, intervals=intervals, n=dict.fromkeys(scores, len(pairs)))


def random_run(run: Run, generator: torch.Generator) -> Run:
    """Return as many random unit directions as a run has live latents; no latent ranks higher."""
    n, d_in = int(run.live.sum()), run.directions.shape[1]
    none = torch.zeros(n)
    chance = random_directions(n, d_in, generator)
    return Run(
        name=run.name, directions=chance, live=torch.ones(n, dtype=torch.bool), peak=none, z=none
    )


def consistency(runs: Sequence[Run], seed: int) -> Scores:
    """How much of what one SAE found the others found, over all pairs of `runs`.

    - `consistency/mcs_0.9` in [0, 1], up: share of the live latents of one run whose largest signed
      cosine with the live latents of another is above 0.9; mean over ordered pairs of runs
      (GBA paper, 2506.14002, v1 figure 5: max cosine similarity).
    - `.../top_act_1`, `.../top_act_5`: the same share among the 1 % and 5 % of each run's live
      latents with the largest peak (value times norm of the direction), at least one latent.
    - `.../top_z_1`, `.../top_z_5`: the same by Z-score (`z_scores`).
    - `consistency/pw_mcc` in [-1, 1], up: signed cosines of the best one-to-one matching of two
      runs' live latents, summed, over the larger number of live latents; mean over pairs. With
      equal numbers this is PW-MCC (Song et al. 2025, https://arxiv.org/abs/2505.20254); a latent
      without a partner counts 0 here.
    - `/chance` of both: random unit directions, as many as each run has live latents. A selection
      picks among random directions at random, so the first stands for every selection.

    `n` counts unordered pairs. With three runs or more there are intervals: mean +- t * jackknife
    standard error over left-out runs, 95 %, n_runs - 1 degrees of freedom, cut to the range.
    """
    if len(runs) < 2:
        raise ValueError(f"consistency compares at least 2 runs, got {len(runs)}")
    widths = {run.name: run.directions.shape[1] for run in runs}
    if len(set(widths.values())) > 1:
        raise ValueError(f"consistency needs runs of one d_in, got {widths}")
    silent = [run.name for run in runs if not bool(run.live.any())]
    names = [_mcs_name(selection) for selection in (None, *SELECTIONS)] + [PW_MCC]
    if silent:
        reason = f"no latent of {', '.join(silent)} fires on the held-out rows"
        return Scores(scores={}, skipped=dict.fromkeys(names, reason))
    generator = make_generator(seed, "eval random directions")
    found = score_pairs(runs)
    control = score_pairs([random_run(run, generator) for run in runs])
    chance = {control_name(k): control.scores[k] for k in CONTROLLED if k in control.scores}
    return Scores(
        scores=found.scores | chance,
        intervals=found.intervals,
        n=found.n | dict.fromkeys(chance, len(runs) * (len(runs) - 1) // 2),
    )


def _mcs_name(selection: str | None) -> str:
    return f"consistency/mcs_{TAU}" + (f"/{selection}" if selection else "")
