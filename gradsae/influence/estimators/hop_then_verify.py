"""Spend a fixed budget on the latents whose gradient x activation is least certain.

1. Ablate the latents with the largest error bars for their cost, at every position. Effects of
   single positions do not quite add up, and a latent that is open everywhere may do less or more
   than the sum of its entries.
2. For the most uncertain single entries (latent x position), compute the effect through the next
   few blocks exactly (the "first hop", `hops`), the first half through more blocks than the second.
   What later positions make of it at second order is added as it is on average (`LEAN`). The other
   entries of a position are corrected by the mean correction there (`carry_over`).
3. Ablate the latents closest to the boundary of the top `top`, measured in their error bars. A
   latent far above the boundary needs no check.

Why: in SmolLM2's early blocks, what saturates is the token's own doing (a large code at a position
with massive activations) or the softmax that reads it. Both are exact in a first hop, which costs
one token of some blocks, however long the prompt. At positions whose logits are read, an entry is
ablated instead.

Cost: reruns. A hop counts as one token of the blocks it runs through; the products of its closed
form (length / (6 d_model) of that) are not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.ablation import ablate_sparing, clean_value, first_read
from gradsae.influence.entries import (
    latent_columns,
    positions_of,
    split_entries,
    sum_by_latent,
)
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.hops import Screened, screen
from gradsae.influence.estimators.screen_then_verify import affordable_prefix
from gradsae.influence.gradient import gradient_cost
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt

ALIKE = 0.3
"""Share of the variance of error / bar that entries of one position have in common (results/LOG.md,
SmolLM2)."""
MOST_MOVED = 0.5
"""In error bars: a larger correction by a hop counts as this much for the other entries."""
BAR_LEFT = 1 / 3
"""Error bar of an entry after its hop, as a share of the bar before."""
LEAN = 0.03
"""Mean second-order effect beyond a first hop, in error bars of the hop, fitted on SmolLM2
(results/LOG.md). Gemma's bars there are 0, so nothing is added."""
TINY = 1e-30


@final
@dataclass(frozen=True, kw_only=True)
class HopThenVerify(Estimator):
    """Signed, in units of the target."""

    max_cost: float = 10.0
    """Budget in full forward passes, the gradient included."""
    largest: float = 0.4
    """Share of the budget after the gradient that ablates the latents with the largest bars."""
    hops: float = 0.4
    """Share of it that takes entries through their first hop; the rest ablates at the boundary."""
    deep: float = 0.75
    """Blocks that a hop runs in the first half of that share, as a share of the blocks after the
    site: rounded down, at least one block."""
    short: float = 0.375
    """The same in the second half."""
    top: int = 10
    """Number of first latents whose boundary to the rest is checked."""

    def __post_init__(self) -> None:
        checks.number("max_cost", self.max_cost, above=1)
        checks.share("largest", self.largest)
        checks.share("hops", self.hops)
        checks.share("deep", self.deep)
        checks.share("short", self.short)
        checks.whole("top", self.top, 1)
        if self.largest + self.hops > 1:
            raise ValueError(
                f"largest and hops are shares of one whole, got {self.largest} and {self.hops}"
            )

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"hop_lean{self.top}_{self.max_cost:g}fe"

    @property
    def about(self) -> About:
        label = f"hop, verify to {self.max_cost:g}"
        return About(label=label, family="checked", member=4, spends_checks=True)

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        clean = clean_value(seen, target)
        if not seen.rerun.later_blocks:  # a rerun runs no block, so ablation costs nothing
            everything = torch.arange(seen.n_active, device=seen.codes.device)
            return ablate_sparing(seen, target, everything, clean)
        entries, layers = split_entries(seen), self._layers(seen.rerun.later_blocks)
        screened = screen(entries, target, max(layers))
        search = Search(seen=seen, entries=entries, target=target, clean=clean, screened=screened)
        tokens = self._tokens(search)
        certain = search.largest_bars(self.largest * tokens)
        hopped = hop_entries(search, layers, search.uncertain(certain), self.hops * tokens)
        effect = hopped.effect
        effect += carry_over(
            effect - screened.gradient, screened.bars, hopped.is_known, search.positions
        )
        scores = sum_by_latent(seen, effect)
        scores[certain] = ablate_sparing(seen, target, certain, clean)
        tokens_left = tokens - float(search.costs[certain].sum()) - hopped.tokens
        uncertain = self._near_boundary(search, scores, certain, hopped.is_known)
        uncertain = affordable(uncertain, search.costs, tokens_left)
        scores[uncertain] = ablate_sparing(seen, target, uncertain, clean)
        return scores

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """Return at most this: `max_cost`, or the cost of doing everything to every latent.

        As for a target of the last position. The clean keys and values are those of its pass.
        """
        n_pos = len(seen.codes)
        positions = seen.codes.nonzero()[:, 0]
        shares = 1 - seen.first_open(torch.arange(seen.n_active)) / n_pos
        most = (len(positions) + n_pos + 1) / n_pos + float(shares.sum())
        most = gradient_cost(seen) + seen.rerun.fraction * most
        return max(gradient_cost(seen), min(self.max_cost, most))

    def _layers(self, later: Sequence[int]) -> list[int]:
        """Return the last block of a deep and of a short hop."""
        counts = [max(1, int(share * len(later))) for share in (self.deep, self.short)]
        return [later[min(count, len(later)) - 1] for count in counts]

    def _tokens(self, search: "Search") -> float:
        """Return the budget after the gradient and the clean run, in tokens of the later blocks."""
        seen, n_pos = search.seen, len(search.seen.codes)
        tokens = (self.max_cost - gradient_cost(seen)) * n_pos / seen.rerun.fraction
        return tokens - (n_pos - search.read)

    def _near_boundary(
        self,
        search: "Search",
        scores: Float[Tensor, " active"],
        certain: Int[Tensor, " certain"],
        is_known: Bool[Tensor, " entries"],
    ) -> Int[Tensor, " uncertain"]:
        """Return the latents that are not certain, those nearest the boundary of `top` first."""
        left_by_hop = torch.where(search.positions < search.read, BAR_LEFT, 0.0)
        bars_left = left_by_hop.where(is_known, torch.ones(())) * search.screened.bars
        bars = sum_by_latent(search.seen, bars_left.square()).sqrt()
        distance = boundary_distance(scores, self.top) / bars.clamp_min(TINY)
        distance[certain] = inf
        order = distance.argsort(stable=True)
        return order[: len(order) - len(certain)]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """One prompt after the screen."""

    seen: SeenPrompt
    entries: SeenPrompt
    """The prompt with one column per latent and position."""
    target: Target
    clean: Float[Tensor, "1"]
    """The target without an edit."""
    screened: Screened

    @property
    def read(self) -> int:
        """First position whose logits are read."""
        return first_read(self.seen, [self.target])

    @cached_property
    def positions(self) -> Int[Tensor, " entries"]:
        return positions_of(self.entries)

    @cached_property
    def costs(self) -> Float[Tensor, " active"]:
        """Tokens of the later blocks that an ablation of each latent runs."""
        return rerun_tokens(self.seen, self.target)

    def largest_bars(self, tokens: float) -> Int[Tensor, " certain"]:
        """Return the latents with the largest error bars for their cost that `tokens` pay for."""
        bars = sum_by_latent(self.seen, self.screened.bars.square()).sqrt() / self.costs
        order = bars.argsort(descending=True, stable=True)
        return affordable_prefix(order, self.costs, tokens)

    def uncertain(self, certain: Int[Tensor, " certain"]) -> list[int]:
        """Return the entries of the other latents, those with the largest error bars first."""
        order = self.screened.bars.argsort(descending=True, stable=True)
        is_certain = torch.isin(latent_columns(self.seen), certain)
        return order[~is_certain[order]].tolist()


def rerun_tokens(seen: SeenPrompt, target: Target) -> Float[Tensor, " active"]:
    """Return how many positions an ablation of each latent runs."""
    opens = seen.first_open(torch.arange(seen.n_active, device=seen.codes.device))
    opens = opens.clamp_max(first_read(seen, [target]))
    starts = torch.tensor([seen.rerun.rerun_start(start) for start in opens.tolist()])
    return (len(seen.codes) - starts).to(seen.codes)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Hopped:
    """Effects of entries, some of them by a hop."""

    effect: Float[Tensor, " entries"]
    is_known: Bool[Tensor, " entries"]
    """True for entries that took a hop or were ablated; the others keep their gradient."""
    tokens: float
    """Cost in tokens of the later blocks."""


def hop_entries(
    search: Search, layers: Sequence[int], order: Sequence[int], tokens: float
) -> Hopped:
    """Take the first entries of an order through a hop, as many as `tokens` pay for.

    Equal parts of the budget go to hops through each of `layers`. At positions whose logits are
    read an entry is ablated instead.
    """
    entries, read = search.entries, search.read
    positions, ablation_tokens = search.positions, rerun_tokens(entries, search.target)
    effect = search.screened.gradient.clone()
    is_known, spent = torch.zeros_like(positions, dtype=torch.bool), 0.0
    for i, layer in enumerate(layers, start=1):
        hop_tokens = search.screened.clean.hop_cost(layer)
        costs = torch.where(positions >= read, ablation_tokens, hop_tokens).tolist()
        order = [entry for entry in order if not is_known[entry]]
        tokens_left = i / len(layers) * tokens - spent
        chosen, cost = plan(order, positions.clamp_max(read).tolist(), costs, tokens_left)
        for position, columns in chosen.items():
            if position < read:
                linear, bars = search.screened.clean.hop(position, columns, layer)
                effect[columns] = linear + LEAN * bars
            else:
                effect[columns] = ablate_sparing(entries, search.target, columns, search.clean)
            is_known[columns] = True
        spent += cost
    return Hopped(effect=effect, is_known=is_known, tokens=spent)


def carry_over(
    moved: Float[Tensor, " entries"],
    bars: Float[Tensor, " entries"],
    is_known: Bool[Tensor, " entries"],
    positions: Int[Tensor, " entries"],
) -> Float[Tensor, " entries"]:
    """Return the correction of unknown entries, from what the known ones there moved by.

        correction_e = bar_e * sum of moves / (n + (1 - ALIKE) / ALIKE)

    over the n known entries of e's position, each move in its own bars and at most MOST_MOVED in
    size. 0 for known entries.
    """
    moves = (moved / bars.clamp_min(TINY)).clamp(-MOST_MOVED, MOST_MOVED) * is_known
    total, count = (
        moves.new_zeros(int(positions.max()) + 1).index_add(0, positions, summand.to(moves))
        for summand in (moves, is_known)
    )
    mean = total / (count + (1 - ALIKE) / ALIKE)
    return (mean[positions] * bars).masked_fill(is_known, 0.0)


def boundary_distance(scores: Float[Tensor, " active"], top: int) -> Float[Tensor, " active"]:
    """Return how far each score is from the boundary between the first `top` and the rest.

    The boundary is the middle between the last of these and the next score, or the last where there
    is no next.
    """
    around = scores.sort(descending=True).values[max(0, top - 1) : top + 1]
    boundary = around.mean() if len(around) else scores.min()
    return (scores - boundary).abs()


def plan(
    order: Sequence[int], positions: Sequence[int], costs: Sequence[float], tokens: float
) -> tuple[dict[int, Int[Tensor, " here"]], float]:
    """Return the first entries of an order that `tokens` pay for, by position, and their cost.

    `positions` and `costs` are indexed by entry.
    """
    chosen, spent = dict[int, list[int]](), 0.0
    for entry in order:
        if spent + costs[entry] > tokens:
            break
        chosen.setdefault(positions[entry], []).append(entry)
        spent += costs[entry]
    return {position: torch.tensor(part) for position, part in chosen.items()}, spent


def affordable(
    order: Int[Tensor, " part"], costs: Float[Tensor, " active"], tokens: float
) -> Int[Tensor, " chosen"]:
    """Return the latents of an order that can be paid for in turn, skipping the too expensive."""
    chosen = []
    for latent in order.tolist():
        if float(costs[latent]) <= tokens:
            chosen.append(latent)
            tokens -= float(costs[latent])
    return order.new_tensor(chosen)
