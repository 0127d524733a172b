"""Entries in doubt to their first hop exactly, then ablations where they decide who is first.

What saturates in SmolLM2's early blocks is the token's own doing (a large code at a position with
massive activations) or the softmax's that reads it. Both are exact in a first hop
(`gradsae.influence.hops`), and it costs one token of some blocks, however long the prompt; the
products of its closed form (length / (6 d_model) of that) are not counted. At positions whose
logits are read an entry is ablated as such.

The cost limit pays first for whole ablations of the latents that are most in doubt (`doubt`, the
error bar of gradient x activation) for what that costs: positions do not quite add up, and a latent
that is open everywhere may do less or more than the sum of its entries. Then for hops of entries,
those most in doubt first and through more blocks; what later positions make of them at second order
is added as it is on average (`LEAN`). What they moved by says how the curvature of
their position leans, and the other entries there follow (`carried`). What is left ablates latents
near the line between the first `top` and the rest, measured in their doubt: those far above the
line need no check to be known as among the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.influence.ablation import ablate_sparing, clean_value, first_read
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.gradient import gradient_cost
from gradsae.influence.estimators.screen_then_verify import payable
from gradsae.influence.hops import Hops, read_tail, screen
from gradsae.influence.target import Target
from gradsae.influence.truths.entry import by_latent, latent_columns, split_entries
from gradsae.prompts.seen import SeenPrompt

ALIKE = 0.3
"""Share of the variance of error / doubt that entries of one position have in common (LOG)."""
MOST_MOVED = 0.5
"""In doubts: a hop that moves an entry further says no more than this about the others."""
DOUBT_LEFT = 1 / 3
"""Of an entry's doubt after its hop."""
LEAN = 0.03
"""What an entry supports the target beyond its first hop, in doubts of that, on average on SmolLM2
(LOG); nothing is added where there is no such doubt (Gemma)."""
TINY = 1e-30


@final
@dataclass(frozen=True, kw_only=True)
class HopThenVerify(Estimator):
    """Ablations of those in doubt, first hops of entries, ablations of those near the line."""

    max_cost: float = 10.0
    """Forward-equivalents, all told."""
    largest: float = 0.4
    """Share of what the gradient leaves that ablates latents for their doubt."""
    hops: float = 0.4
    """Share of it that takes entries through their first hop; the rest ablates at the line."""
    deep: float = 0.75
    """Share of the blocks after the site, rounded down, that a hop of the first half of that share
    runs (one at least); the gradient goes on."""
    short: float = 0.375
    """The same, of the second half."""
    top: int = 10
    """How many first latents are to be told from the rest."""

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
    def name(self) -> str:
        return f"hop_lean{self.top}_{self.max_cost:g}fe"

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        every = torch.arange(seen.n_active, device=seen.codes.device)
        clean = clean_value(seen, target)
        later = read_tail(seen).later_layers
        if not later:  # nothing to run: the truth itself is free
            return ablate_sparing(seen, target, every, clean)
        entries = split_entries(seen)
        blocks = [max(1, int(share * len(later))) for share in (self.deep, self.short)]
        gradient, doubt, depths = screen(entries, target, blocks)
        latent = latent_columns(seen)
        read, price = first_read(seen, [target]), run_tokens(seen, target)
        tokens = (self.max_cost - gradient_cost(seen)) * len(seen.codes) / seen.suffix.fraction
        tokens -= len(seen.codes) - read  # the clean run
        by_doubt = by_latent(seen, doubt.square()).sqrt() / price
        largest = by_doubt.argsort(descending=True, stable=True)
        largest = payable(largest, price, self.largest * tokens)
        exact = torch.isin(every, largest)
        wanted = doubt.argsort(descending=True, stable=True)
        wanted = wanted[~exact[latent[wanted]]].tolist()
        by_entry, known, hopped = hop(
            entries, gradient, depths, wanted, target, clean, self.hops * tokens
        )
        at = entries.first_open(torch.arange(entries.n_active, device=latent.device))
        by_entry += carried(by_entry - gradient, doubt, known, at)

        scores = by_latent(seen, by_entry)
        scores[largest] = ablate_sparing(seen, target, largest, clean)
        left = torch.where(at < read, DOUBT_LEFT, 0.0).where(known, torch.ones(())) * doubt
        far = to_line(scores, self.top) / by_latent(seen, left.square()).sqrt().clamp_min(TINY)
        nearest = far.masked_fill(exact, inf).argsort(stable=True)
        nearest = nearest[: len(nearest) - len(largest)]
        checked = affordable(nearest, price, tokens - float(price[largest].sum()) - hopped)
        scores[checked] = ablate_sparing(seen, target, checked, clean)
        return scores

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """At most: `max_cost`, or what it takes to do everything to every entry and latent.

        As for a target of the last position; the clean keys and values are those of its pass.
        """
        n_pos = len(seen.codes)
        late = seen.codes.nonzero()[:, 0]
        shares = 1 - seen.first_open(torch.arange(seen.n_active)) / n_pos
        most = (len(late) + n_pos + 1) / n_pos + float(shares.sum())
        most = gradient_cost(seen) + seen.suffix.fraction * most
        return max(gradient_cost(seen), min(self.max_cost, most))


def run_tokens(seen: SeenPrompt, target: Target) -> Float[Tensor, " active"]:
    """Return how many positions an ablation of each latent runs."""
    opens = seen.first_open(torch.arange(seen.n_active, device=seen.codes.device))
    opens = opens.clamp_max(first_read(seen, [target]))
    begins = torch.tensor([seen.suffix.begin(start) for start in opens.tolist()])
    return (len(seen.codes) - begins).to(seen.codes)


def hop(
    entries: SeenPrompt,
    gradient: Float[Tensor, " entries"],
    depths: Sequence[Hops],
    wanted: Sequence[int],
    target: Target,
    clean: Float[Tensor, "1"],
    tokens: float,
) -> tuple[Float[Tensor, " entries"], Bool[Tensor, " entries"], float]:
    """Return the effect of every entry, which of them are by a hop, and what those cost.

    The first of those `wanted` that `tokens` of the later blocks pay for, at equal cost by each of
    the `depths`; the others keep their gradient. Where logits are read it is an ablation.
    """
    at = entries.first_open(torch.arange(entries.n_active, device=gradient.device))
    read, whole = first_read(entries, [target]), run_tokens(entries, target)
    effect, known, spent = gradient.clone(), torch.zeros_like(at, dtype=torch.bool), 0.0
    for i, hops in enumerate(depths, start=1):
        prices = torch.where(at >= read, whole, hops.share).tolist()
        wanted = [entry for entry in wanted if not known[entry]]
        left = i / len(depths) * tokens - spent
        found, cost = plan(wanted, at.clamp_max(read).tolist(), prices, left)
        for place, part in found.items():
            if place < read:
                first, doubt = hops.effects(place, part)
                effect[part] = first + LEAN * doubt
            else:
                effect[part] = ablate_sparing(entries, target, part, clean)
            known[part] = True
        spent += cost
    return effect, known, spent


def carried(
    moved: Float[Tensor, " entries"],
    doubt: Float[Tensor, " entries"],
    known: Bool[Tensor, " entries"],
    at: Int[Tensor, " entries"],
) -> Float[Tensor, " entries"]:
    """Return what entries that are not known should move by, as the known ones of their position.

    In doubts: the mean of what these `moved` by, shrunk towards 0 as `ALIKE` has it for so many.
    """
    moves = (moved / doubt.clamp_min(TINY)).clamp(-MOST_MOVED, MOST_MOVED) * known
    total, count = (
        moves.new_zeros(int(at.max()) + 1).index_add(0, at, each.to(moves))
        for each in (moves, known)
    )
    mean = total / (count + (1 - ALIKE) / ALIKE)
    return (mean[at] * doubt).masked_fill(known, 0.0)


def to_line(scores: Float[Tensor, " active"], top: int) -> Float[Tensor, " active"]:
    """Return how far each score is from the line between the first `top` and the rest.

    That is the middle between the last of these and the next, or the last where there is no next.
    """
    first = scores.sort(descending=True).values[max(0, top - 1) : top + 1]
    line = first.mean() if len(first) else scores.min()
    return (scores - line).abs()


def plan(
    order: Sequence[int], places: Sequence[int], prices: Sequence[float], tokens: float
) -> tuple[dict[int, Int[Tensor, " here"]], float]:
    """Return which entries, by place, `tokens` of the later blocks pay for, and what they cost.

    `order` is of entries, the first being wanted most; `places` and `prices` are by entry.
    """
    found, spent = dict[int, list[int]](), 0.0
    for entry in order:
        if spent + prices[entry] > tokens:
            break
        found.setdefault(places[entry], []).append(entry)
        spent += prices[entry]
    return {place: torch.tensor(part) for place, part in found.items()}, spent


def affordable(
    order: Int[Tensor, " part"], price: Float[Tensor, " active"], left: float
) -> Int[Tensor, " bought"]:
    """Return those of an order that can be paid in turn, passing over what is too dear."""
    bought = []
    for latent in order.tolist():
        if float(price[latent]) <= left:
            bought.append(latent)
            left -= float(price[latent])
    return order.new_tensor(bought)
