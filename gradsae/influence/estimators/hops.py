"""The first hop of an entry: what its own position does with it, and what later positions read.

An entry is a latent c that is open at position p. Some blocks are run at p alone, with c switched
off. That gives the keys and values of p in them, and the stream x of p after the last of them. The
attention output of each later position then changes by a closed form (`gradsae.lm.attention`), and

    effect = g_x . (x - x') + sum over those blocks l, heads h, positions q > p of
                              g_lhq . (out_lhq - out'_lhq)

with g the gradient of the target in the clean pass. This is exact to the first hop and linear from
there on. It misses what later positions make of a changed stream at second order, for which there
is an error bar, as for gradient x activation (`gradsae.influence.gradient.error_bars`):

    bar = sum over those blocks l and positions q > p of |d_lq|^2 |g_lq| / |x_lq|

with d_lq the change of what block l's attention adds to the stream of q, x_lq that stream after the
block and g_lq the gradient there. It is 0 where that change is not known (`Heads.added`).
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.errors import UserError
from gradsae.influence.gradient import error_bars, gradient_and
from gradsae.influence.target import Target
from gradsae.lm.attention import Heads
from gradsae.lm.partial import cost_through, run_one_position, watch_attention, watch_stream
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """The attention of one block in the clean pass, with the target's gradient."""

    heads: Heads
    slope: Float[Tensor, "heads pos d_head"]
    """The gradient at the heads' output."""
    bar: Float[Tensor, " pos"]
    """Error bar per squared change of the heads' output: gain^2 |g| / |x| of the stream after."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CleanPass:
    """A clean pass with the target's gradient: what the first hops of entries start from."""

    entries: SeenPrompt
    """One column per latent and position (`split_entries`)."""
    readings: dict[int, Reading]
    """By block, for the blocks after the site that have attention."""
    streams: dict[int, Float[Tensor, "pos d_model"]]
    """The stream after each block that was watched."""
    slopes: dict[int, Float[Tensor, "pos d_model"]]
    """The gradient there."""

    def hop_cost(self, layer: int) -> float:
        """Return the cost of a hop through block `layer`, in tokens that run all later blocks."""
        rerun = self.entries.rerun
        return cost_through(rerun, layer) / rerun.fraction

    @torch.no_grad()
    def hop(
        self, position: int, columns: Int[Tensor, " here"], layer: int
    ) -> tuple[Float[Tensor, " here"], Float[Tensor, " here"]]:
        """Compute effects of entries at position `at` through block `layer`, and their error bars.

        Linear from the first hop on; both in units of the target. Edited rows are compared with
        the clean pass itself, so differences between kernels do not cancel. Raises UserError if
        some block keeps no keys and values.
        """
        edited = removed_at(self.entries, position, columns)
        ran = run_one_position(self.entries.rerun, edited, position, layer)
        readings = [reading for block, reading in self.readings.items() if block <= layer]
        if ran is None or len(ran[0].blocks) != len(readings):
            decoder = self.entries.rerun.decoder
            reasons = f" ({'; '.join(decoder.notes)})" if decoder.notes else ""
            raise UserError(
                f"{decoder.name}: a model whose blocks do not all keep keys and values has no "
                f"first hops{reasons}: take an estimator without hops, for example gradsae"
            )
        key_values, stream = ran
        moved = (stream - self.streams[layer][position]).float() @ self.slopes[layer][
            position
        ].float()
        later = slice(position + 1, None)
        bars = torch.zeros_like(moved)
        for reading, (key, value) in zip(readings, key_values.blocks, strict=True):
            change = reading.heads.change(position, key[:, :, 0], value[:, :, 0])
            moved += (change * reading.slope[:, later].float()).sum((1, 2, 3))
            bars += change.square().sum((1, 3)) @ reading.bar[later]
        return -moved.to(edited), bars.to(edited)


def removed_at(
    entries: SeenPrompt, position: int, columns: Int[Tensor, " here"]
) -> Float[Tensor, "here d_in"]:
    """Return the site's activation at one position, once with each entry switched off."""
    written = (entries.codes[position] * entries.scale[position])[columns]
    return entries.clean[position] - written[:, None] * entries.directions[columns]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Screened:
    """Entries after one backward pass; everything in units of the target."""

    gradient: Float[Tensor, " entries"]
    """Gradient x activation."""
    bars: Float[Tensor, " entries"]
    """Its error bars."""
    clean: CleanPass


def screen(entries: SeenPrompt, target: Target, last: int) -> Screened:
    """Screen entries by one backward pass, watching the blocks after the site through `last`."""
    run = [layer for layer in entries.rerun.later_blocks if layer <= last]
    with ExitStack() as stack:
        heads = stack.enter_context(watch_attention(entries.rerun))
        watched = {layer: stack.enter_context(watch_stream(entries.rerun, layer)) for layer in run}

        def tensors(site: Float[Tensor, "1 pos d_in"]) -> list[Tensor]:
            outs = [heads[layer].out for layer in run if layer in heads]
            return [site, *(watched[layer][-1] for layer in run), *outs]

        grad, slopes_read = gradient_and(entries, target, entries.codes[None], tensors)
    at_site, *later_slopes = (slope[0] for slope in slopes_read)
    slopes = dict(zip(run, later_slopes[: len(run)], strict=True))
    streams = {layer: watched[layer][-1][0].detach() for layer in run}
    head_slopes = zip(
        (layer for layer in run if layer in heads), later_slopes[len(run) :], strict=True
    )
    readings = {
        layer: Reading(
            heads=heads[layer],
            slope=slope,
            bar=heads[layer].gain.square()
            * (slopes[layer].float().norm(dim=1) / streams[layer].float().norm(dim=1)),
        )
        for layer, slope in head_slopes
    }
    return Screened(
        gradient=(grad[0] * entries.codes).sum(0),
        bars=error_bars(entries, at_site),
        clean=CleanPass(entries=entries, readings=readings, streams=streams, slopes=slopes),
    )
