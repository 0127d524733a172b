"""A position by itself exactly, what later ones read of it exactly, from there the gradient.

For an open entry (latent c at position p) the model is run at position p alone, with c switched off
there: that gives the keys and values of p in every later block. How much the attention output of
each later position changes then has a closed form (`gradsae.attention`), and

    score = sum over later blocks l, heads h, positions q > p of  -g_lhq . (out'_lhq - out_lhq)

with g the gradient of the target at the clean pass. A latent's score is the sum over its positions.

Saturated gradients of SmolLM2's early blocks are the token's own doing (a large code at a position
with massive activations) or the softmax's that reads it, and both are exact here; what is left to
the gradient is what happens after one hop. An entry costs one token of the later blocks, however
long the prompt; the products of the closed form (length / (6 d_model) of that) are not counted.
At positions whose logits are read an entry is ablated as such, for the same price at the last one.
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
from gradsae.influence.estimators.screen_then_verify import written
from gradsae.influence.target import Target
from gradsae.influence.truths.entry import split_entries
from gradsae.prompt import ReadTail, SeenPrompt

READ_BONUS = 2.0
"""How much larger an entry counts at a position that is read: there it gets an ablation."""


@final
@dataclass(frozen=True, kw_only=True)
class FirstHop(Estimator):
    """The largest entries ablated, the next through their first hop, all others by the gradient."""

    max_cost: float = 10.0
    """Forward-equivalents, all told."""
    ablated: float = 0.25
    """Share of what the gradient leaves that ablates entries at positions before those read."""

    def __post_init__(self) -> None:
        checks.number("max_cost", self.max_cost, above=1)
        checks.share("ablated", self.ablated)

    @property
    def name(self) -> str:
        return f"first_hop_{self.max_cost:g}fe"

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        entries, tail = split_entries(seen), read_tail(seen)
        scores, reads = screen(entries, target, tail)
        plan = self._plan(entries, target)
        for part in (plan.early, plan.late):  # apart: a batch begins at its first edit
            if len(part):
                found = ablate(entries, target, part, batch_rows=len(part) + 1)
                scores[part] = found.effect
        for at, part in plan.hops.items():
            scores[part] = first_hop(entries, tail, reads, at, part)
        latent = seen.codes.mT.nonzero()[:, 0]  # in the order of split_entries
        return scores.new_zeros(seen.n_active).index_add(0, latent, scores)

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """At most: `max_cost`, or what it takes to ablate every entry."""
        n_pos, at = len(seen.codes), seen.codes.nonzero()[:, 0]
        tokens = float((n_pos - at).sum()) + 2 * n_pos
        most = gradient_cost(seen) + seen.suffix.fraction * tokens / n_pos
        return max(gradient_cost(seen), min(self.max_cost, most))

    def _plan(self, entries: SeenPrompt, target: Target) -> "Plan":
        """Spend what the gradient leaves on the entries that write most."""
        n_pos, read = len(entries.codes), first_read(entries, [target])
        at = entries.first_open(torch.arange(entries.n_active, device=entries.codes.device))
        size = written(entries) * torch.where(at >= read, READ_BONUS, 1.0)
        order = size.argsort(descending=True, stable=True).tolist()
        tokens = (self.max_cost - gradient_cost(entries)) * n_pos / entries.suffix.fraction
        return plan(order, at.tolist(), n_pos, read, tokens, self.ablated)


class Plan(NamedTuple):
    """What is done with which entries; those of none of these keep their gradient."""

    early: Int[Tensor, " early"]
    """Ablated, at positions before those whose logits are read."""
    late: Int[Tensor, " late"]
    """Ablated, at those positions."""
    hops: dict[int, Int[Tensor, " here"]]
    """By position."""


def plan(
    order: Sequence[int], at: Sequence[int], n_pos: int, read: int, tokens: float, share: float
) -> Plan:
    """Return what `tokens` of the later blocks pay for; `share` of them are for `early`.

    `order` is of entries, the first being wanted most, `at` their positions, `read` the first
    position whose logits are read. Rows that are not edited, one in each batch, are paid for too.
    """
    early, late, hops, spent, begin = [], [], dict[int, list[int]](), 0, n_pos
    for entry in (e for e in order if at[e] < read):
        price = n_pos - at[entry] + max(begin - at[entry], 0)
        if spent + price > share * tokens:
            break
        early.append(entry)
        spent, begin = spent + price, min(begin, at[entry])
    done = set(early)
    for entry in (e for e in order if e not in done):
        is_late, place = at[entry] >= read, at[entry]
        price = (n_pos - read) * (1 + (not late)) if is_late else 1 + (place not in hops)
        if spent + price > tokens:
            break
        (late if is_late else hops.setdefault(place, [])).append(entry)
        spent += price
    return Plan(
        torch.tensor(early, dtype=torch.long),
        torch.tensor(late, dtype=torch.long),
        {place: torch.tensor(entries) for place, entries in hops.items()},
    )


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
    rows = torch.cat([entries.clean[None], entries.without(columns)])[:, at]
    past = tail.alone(rows, at)
    if past is None or len(past.layers) != len(reads.heads):
        raise UserError("a model whose blocks do not all keep keys and values has no first hops")
    moved = entries.codes.new_zeros(len(rows))
    for heads, slope, (key, value) in zip(reads.heads, reads.slopes, past.layers, strict=True):
        moved += heads.change(slope, at, key[:, :, 0], value[:, :, 0])
    return moved[0] - moved[1:]
