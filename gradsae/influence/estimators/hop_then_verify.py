"""A position by itself exactly, what later ones read of it exactly, from there the gradient.

For an open entry (latent c at position p) the model is run at position p alone, with c switched off
there: that gives the keys and values of p in every later block. How much the attention output of
each later position changes then has a closed form (`gradsae.attention`), and

    score = sum over later blocks l, heads h, positions q > p of  -g_lhq . (out'_lhq - out_lhq)

with g the gradient of the target at the clean pass. A latent's score is the sum over its positions.

What saturates in SmolLM2's early blocks is the token's own doing (a large code at a position with
massive activations) or the softmax's that reads it, and both are exact here; what is left to the
gradient is what happens after one hop. An entry costs one token of the later blocks, however long
the prompt; the products of the closed form (length / (6 d_model) of that) are not counted. At
positions whose logits are read an entry is ablated as such, for the same price at the last one.

Positions do not quite add up: a latent that is open everywhere may do less or more than the sum of
its entries (LOG). So the cost limit pays first for whole ablations of those that write most for
what that costs, then for hops, then for whole ablations of the best by what is known by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.attention import Heads
from gradsae.errors import UserError
from gradsae.influence.ablation import ablate, first_read
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.gradient import gradient_and, gradient_cost
from gradsae.influence.estimators.screen_then_verify import payable, position_share, written
from gradsae.influence.target import Target
from gradsae.influence.truths.entry import split_entries
from gradsae.prompt import ReadTail, SeenPrompt

BATCH_ROWS = 32
READ_BONUS = 2.0
"""How much larger an entry counts at a position that is read: there it gets an ablation."""


@final
@dataclass(frozen=True, kw_only=True)
class HopThenVerify(Estimator):
    """The largest ablated, entries through their first hop, the best of the result ablated."""

    max_cost: float = 10.0
    """Forward-equivalents, all told."""
    largest: float = 0.3
    """Share of what the gradient leaves that ablates latents for what they write."""
    hops: float = 0.4
    """Share of it that takes entries through their first hop; the rest ablates the best."""

    def __post_init__(self) -> None:
        checks.number("max_cost", self.max_cost, above=1)
        checks.share("largest", self.largest)
        checks.share("hops", self.hops)
        if self.largest + self.hops > 1:
            raise ValueError(
                f"largest and hops are shares of one whole, got {self.largest} and {self.hops}"
            )

    @property
    def name(self) -> str:
        return f"hop_verify_{self.max_cost:g}fe"

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        entries, tail = split_entries(seen), read_tail(seen)
        by_entry, reads = screen(entries, target, tail)
        n_pos, read = len(seen.codes), first_read(seen, [target])
        tokens = (self.max_cost - gradient_cost(seen)) * n_pos / seen.suffix.fraction
        tokens -= n_pos  # the unedited row of the ablations
        price = position_share(seen) * n_pos
        by_size = (written(seen) / price).argsort(descending=True, stable=True)
        largest = payable(by_size, price, self.largest * tokens)
        exact = price.new_zeros(len(price), dtype=torch.bool)
        exact[largest] = True
        spent = float(price[largest].sum())

        latent = seen.codes.mT.nonzero()[:, 0]  # in the order of split_entries
        at = entries.first_open(torch.arange(entries.n_active, device=latent.device))
        size = written(entries) * torch.where(at >= read, READ_BONUS, 1.0)
        wanted = size.masked_fill(exact[latent], -1.0).argsort(descending=True, stable=True)
        wanted = wanted[: len(wanted) - int(exact[latent].sum())]
        found, hopped = plan(wanted.tolist(), at.tolist(), n_pos, read, self.hops * tokens)
        for place, part in found.items():
            if place < read:
                by_entry[part] = first_hop(entries, tail, reads, place, part)
            else:
                by_entry[part] = ablate(entries, target, part, batch_rows=len(part) + 1).effect
        scores = by_entry.new_zeros(seen.n_active).index_add(0, latent, by_entry)

        best = scores.masked_fill(exact, -torch.inf).argsort(descending=True, stable=True)
        best = best[: len(best) - len(largest)]
        whole = torch.cat([largest, payable(best, price, tokens - spent - hopped)])
        if len(whole):
            scores[whole] = ablate(seen, target, whole, batch_rows=BATCH_ROWS).effect
        return scores

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """At most: `max_cost`, or what it takes to do everything to every entry and latent."""
        n_pos = len(seen.codes)
        late = seen.codes.nonzero()[:, 0]
        tokens = float((n_pos - late).sum()) + 3 * n_pos + n_pos * float(position_share(seen).sum())
        most = gradient_cost(seen) + seen.suffix.fraction * tokens / n_pos
        return max(gradient_cost(seen), min(self.max_cost, most))


def plan(
    order: Sequence[int], at: Sequence[int], n_pos: int, read: int, tokens: float
) -> tuple[dict[int, Int[Tensor, " here"]], int]:
    """Return which entries, by position, `tokens` of the later blocks pay for, and what they cost.

    `order` is of entries, the first being wanted most; `at` has the position of each. From `read`
    on, where logits are read, an entry runs all positions that are left. Each place has one more
    row, that is not edited.
    """
    found, spent = dict[int, list[int]](), 0
    for entry in order:
        place = min(at[entry], read)
        price = (n_pos - read if place == read else 1) * (1 + (place not in found))
        if spent + price > tokens:
            break
        found.setdefault(place, []).append(entry)
        spent += price
    return {place: torch.tensor(part) for place, part in found.items()}, spent


def read_tail(seen: SeenPrompt) -> ReadTail:
    """Return the model after the site where its attention can be seen; UserError if not."""
    if not isinstance(seen.suffix, ReadTail):
        raise UserError(f"the attention of a {type(seen.suffix).__name__} cannot be seen")
    return seen.suffix


class Reads(NamedTuple):
    """The clean pass: its attention after the site, and the target's gradient there."""

    heads: Sequence[Heads]
    """By block."""
    slopes: Sequence[Float[Tensor, "heads pos d_head"]]


def screen(
    entries: SeenPrompt, target: Target, tail: ReadTail
) -> tuple[Float[Tensor, " entries"], Reads]:
    """Return gradient x activation of each entry, and what its hops need: one backward."""
    with tail.attention() as found:
        grad, slopes = gradient_and(
            entries, target, entries.codes[None], lambda: [found[b].out for b in sorted(found)]
        )
    heads = [found[block] for block in sorted(found)]
    return (grad[0] * entries.codes).sum(0), Reads(heads, [slope[0] for slope in slopes])


@torch.no_grad()
def first_hop(
    entries: SeenPrompt, tail: ReadTail, reads: Reads, at: int, columns: Int[Tensor, " here"]
) -> Float[Tensor, " here"]:
    """Return the effects of entries of one position, linear from the first hop on.

    The first row is not edited, so that what differs between kernels cancels.
    """
    clean, gone = entries.clean[at], (entries.codes[at] * entries.scale[at])[columns]
    rows = torch.cat([clean[None], clean - gone[:, None] * entries.directions[columns]])
    past = tail.alone(rows, at)
    if past is None or len(past.layers) != len(reads.heads):
        raise UserError("a model whose blocks do not all keep keys and values has no first hops")
    moved = entries.codes.new_zeros(len(rows))
    for heads, slope, (key, value) in zip(reads.heads, reads.slopes, past.layers, strict=True):
        moved += heads.change(slope, at, key[:, :, 0], value[:, :, 0])
    return moved[0] - moved[1:]
