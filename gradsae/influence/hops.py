"""The first hop of an entry: its own position by itself, and what later ones read of it.

For an open entry (latent c at position p) some blocks are run at p alone, with c switched off: that
gives the keys and values of p in them, and p's stream x after the last of them. How much the
attention output of each later position changes then has a closed form (`gradsae.lm.attention`), and

    effect = g_x . (x - x') + sum over those blocks l, heads h, positions q > p of
                              g_lhq . (out_lhq - out'_lhq)

with g the gradient of the target at the clean pass: exact to the first hop, linear from there on.
What is missing then is what later positions make of a changed stream at second order, and for that
there is an error bar as for gradient x activation itself (`gradsae.influence.estimators.gradient`):

    doubt = sum over those blocks l and positions q > p of |d_lq|^2 |g_lq| / |x_lq|

with d_lq the change of what block l's attention adds to the stream of q, and x_lq and g_lq that
stream after the block and the gradient there. It is 0 where that change is not known (`Heads`).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.errors import UserError
from gradsae.influence.estimators.gradient import doubt, gradient_and
from gradsae.influence.target import Target
from gradsae.lm.attention import Heads
from gradsae.prompts.seen import ReadTail, SeenPrompt


def read_tail(seen: SeenPrompt) -> ReadTail:
    """Return the model after the site where its attention can be seen; UserError if not."""
    if not isinstance(seen.suffix, ReadTail):
        raise UserError(f"the attention of a {type(seen.suffix).__name__} cannot be seen")
    return seen.suffix


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Hops:
    """A clean pass with the target's gradient in it, from which first hops are taken."""

    entries: SeenPrompt
    """One column per latent and position (`split_entries`)."""
    tail: ReadTail
    layer: int
    """The last block that a hop runs."""
    heads: Sequence[Heads]
    """Attention of each block after the site up to that one."""
    slopes: Sequence[Float[Tensor, "heads pos d_head"]]
    """The gradient there."""
    bars: Sequence[Float[Tensor, " pos"]]
    """What a squared change of each output counts in `doubt`: gain^2 |g| / |x|, of the stream after
    the block."""
    stream: Float[Tensor, "pos d_in"]
    """After the last block."""
    slope: Float[Tensor, "pos d_in"]
    """The gradient there."""

    @property
    def share(self) -> float:
        """What a hop costs, in tokens that run all blocks after the site."""
        return self.tail.share_to(self.layer) / self.tail.fraction

    @torch.no_grad()
    def effects(
        self, at: int, columns: Int[Tensor, " here"]
    ) -> tuple[Float[Tensor, " here"], Float[Tensor, " here"]]:
        """Return the effects of entries of one position, linear from the first hop on, and `doubt`.

        They are compared with the clean pass itself: what differs between kernels does not cancel.
        """
        seen = self.entries
        gone = (seen.codes[at] * seen.scale[at])[columns]
        rows = seen.clean[at] - gone[:, None] * seen.directions[columns]
        left = self.tail.alone(rows, at, self.layer)
        if left is None or len(left[0].layers) != len(self.heads):
            raise UserError(
                "a model whose blocks do not all keep keys and values has no first hops"
            )
        past, stream = left
        moved = (stream - self.stream[at]).float() @ self.slope[at].float()
        later = slice(at + 1, None)
        doubts = torch.zeros_like(moved)
        blocks = zip(self.heads, self.slopes, self.bars, past.layers, strict=True)
        for heads, slope, bar, (key, value) in blocks:
            change = heads.change(at, key[:, :, 0], value[:, :, 0])
            moved += (change * slope[:, later].float()).sum((1, 2, 3))
            doubts += change.square().sum((1, 3)) @ bar[later]
        return -moved.to(seen.codes), doubts.to(seen.codes)


def screen(
    entries: SeenPrompt, target: Target, depths: Sequence[int]
) -> tuple[Float[Tensor, " entries"], Float[Tensor, " entries"], list[Hops]]:
    """Return gradient x activation of each entry, its `doubt`, and hops of so many blocks each.

    One backward for all. Raises UserError for a tail whose attention cannot be seen, or with no
    block in it.
    """
    tail = read_tail(entries)
    if not tail.later_layers:
        raise UserError("no block comes after the site: nothing is read there")
    layers = [tail.later_layers[min(blocks, len(tail.later_layers)) - 1] for blocks in depths]
    run = [layer for layer in tail.later_layers if layer <= max(layers)]
    with ExitStack() as taps, tail.attention() as found:
        streams = {layer: taps.enter_context(tail.tap(layer)) for layer in run}

        def read() -> list[int]:
            return [block for block in run if block in found]

        grad, rest = gradient_and(
            entries,
            target,
            entries.codes[None],
            lambda site: [
                site,
                *(streams[block][-1] for block in run),
                *(found[block].out for block in read()),
            ],
        )
    at_site, *slopes = (slope[0] for slope in rest)
    stream = {block: streams[block][-1][0].detach() for block in run}
    slope = dict(zip(run, slopes, strict=False))
    of_heads = dict(zip(read(), slopes[len(run) :], strict=True))
    size = {b: slope[b].float().norm(dim=1) / stream[b].float().norm(dim=1) for b in of_heads}
    bars = {block: found[block].gain.square() * size[block] for block in of_heads}
    hops = []
    for layer in layers:
        through = [block for block in of_heads if block <= layer]
        hops.append(
            Hops(
                entries=entries,
                tail=tail,
                layer=layer,
                heads=[found[block] for block in through],
                slopes=[of_heads[block] for block in through],
                bars=[bars[block] for block in through],
                stream=stream[layer],
                slope=slope[layer],
            )
        )
    return (grad[0] * entries.codes).sum(0), doubt(entries, at_site), hops
