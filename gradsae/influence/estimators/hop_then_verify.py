"""Entries to their first hop exactly, then ablations where they decide who is among the first.

What saturates in SmolLM2's early blocks is the token's own doing (a large code at a position with
massive activations) or the softmax's that reads it. Both are exact in a first hop
(`gradsae.influence.hops`), and it costs one token of some blocks, however long the prompt; the
products of its closed form (length / (6 d_model) of that) are not counted. At positions whose
logits are read an entry is ablated as such.

Positions do not quite add up: a latent that is open everywhere may do less or more than the sum of
its entries (LOG). So the cost limit pays first for whole ablations of those that write most for
what that costs, then for hops, then for whole ablations of the latents nearest to the line between
the first `top` and the rest. Those far above the line need no check to be known as among the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.influence.ablation import ablate_sparing, clean_value, first_read
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.gradient import gradient_cost
from gradsae.influence.estimators.screen_then_verify import payable, written
from gradsae.influence.hops import read_tail, screen
from gradsae.influence.target import Target
from gradsae.influence.truths.entry import split_entries
from gradsae.prompt import SeenPrompt

READ_BONUS = 2.0
"""How much larger an entry counts at a position that is read: there it gets an ablation."""


@final
@dataclass(frozen=True, kw_only=True)
class HopThenVerify(Estimator):
    """The largest ablated, entries through their first hop, those nearest to the line ablated."""

    max_cost: float = 10.0
    """Forward-equivalents, all told."""
    largest: float = 0.4
    """Share of what the gradient leaves that ablates latents for what they write."""
    hops: float = 0.4
    """Share of it that takes entries through their first hop; the rest ablates at the line."""
    blocks: int = 12
    """Blocks after the site that a hop runs, all if there are fewer; the gradient goes on."""
    top: int = 10
    """How many first latents are to be told from the rest."""

    def __post_init__(self) -> None:
        checks.number("max_cost", self.max_cost, above=1)
        checks.share("largest", self.largest)
        checks.share("hops", self.hops)
        checks.whole("blocks", self.blocks, 1)
        checks.whole("top", self.top, 1)
        if self.largest + self.hops > 1:
            raise ValueError(
                f"largest and hops are shares of one whole, got {self.largest} and {self.hops}"
            )

    @property
    def name(self) -> str:
        return f"hop_top{self.top}_{self.max_cost:g}fe"

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        every = torch.arange(seen.n_active, device=seen.codes.device)
        clean = clean_value(seen, target)
        if not read_tail(seen).later_layers:  # nothing to run: the truth itself is free
            return ablate_sparing(seen, target, every, clean)
        entries = split_entries(seen)
        by_entry, hops = screen(entries, target, self.blocks)
        read, price = first_read(seen, [target]), run_tokens(seen, target)
        tokens = (self.max_cost - gradient_cost(seen)) * len(seen.codes) / seen.suffix.fraction
        tokens -= len(seen.codes) - read  # the clean run
        largest = payable(
            (written(seen) / price).argsort(descending=True, stable=True),
            price,
            self.largest * tokens,
        )
        exact = torch.isin(every, largest)

        latent = seen.codes.mT.nonzero()[:, 0]  # in the order of split_entries
        at = entries.first_open(torch.arange(entries.n_active, device=latent.device))
        size = written(entries) * torch.where(at >= read, READ_BONUS, 1.0)
        wanted = size.argsort(descending=True, stable=True)
        wanted = wanted[~exact[latent[wanted]]]
        prices = torch.where(at >= read, run_tokens(entries, target), hops.share)
        found, hopped = plan(
            wanted.tolist(), at.clamp_max(read).tolist(), prices.tolist(), self.hops * tokens
        )
        for place, part in found.items():
            if place < read:
                by_entry[part] = hops.effects(place, part)
            else:
                by_entry[part] = ablate_sparing(entries, target, part, clean)

        scores = by_entry.new_zeros(seen.n_active).index_add(0, latent, by_entry)
        scores[largest] = ablate_sparing(seen, target, largest, clean)
        nearest = to_line(scores, self.top).masked_fill(exact, inf).argsort(stable=True)
        nearest = nearest[: len(nearest) - len(largest)]
        left = tokens - float(price[largest].sum()) - hopped
        checked = payable(nearest, price, left)
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
