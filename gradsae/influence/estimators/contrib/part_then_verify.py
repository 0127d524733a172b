"""Part of the way exactly: ablate through the next few blocks, from there on take the gradient.

    score_c = g_M . (x_M - x_M without c),      g_M = d m / d x_M, x_M: the stream after block M

In early layers the gradient errs where a latent writes much, above all at positions with massive
activations, and the error grows block by block. To run a latent's removal to the middle of the
model costs a quarter to a half of an ablation, and from the middle on gradients are good (LOG). So
the screen's candidates go part of the way, and what is left of the cost limit ablates the first of
the new order. At and after the middle there is no part to go: then all of it is ablation. At block
7 of SmolLM2 it was no better than verifying the largest (LOG).
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.ablation import ablate, batches, first_read, forward_equivalents
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.screen_then_verify import (
    affordable_prefix,
    alternate,
    position_share,
)
from gradsae.influence.gradient import gradient_and, gradient_cost, write_norms
from gradsae.influence.target import Target
from gradsae.lm.outputs import first
from gradsae.lm.partial import cost_through, watch_stream
from gradsae.lm.rerun import Rerun
from gradsae.prompts.seen import SeenPrompt

BATCH_ROWS = 32


@final
@dataclass(frozen=True, kw_only=True)
class PartThenVerify(Estimator):
    """Gradient, then exact blocks up to the middle, then ablation, within a cost limit."""

    max_cost: float = 10.0
    """Budget in full forward passes, the gradient included."""
    until: float = 0.5
    """Share of the model's blocks after which the gradient is trusted."""
    kept: float = 0.3
    """Share of what the screen leaves that is kept for ablations."""

    def __post_init__(self) -> None:
        checks.number("max_cost", self.max_cost, above=1)
        checks.share("until", self.until)
        checks.share("kept", self.kept)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"part_verify_{self.max_cost:g}fe"

    @property
    def about(self) -> About:
        label = f"part, verify to {self.max_cost:g}"
        return About(label=label, family="checked", member=3, spends_checks=True)

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        share = position_share(seen)
        layer = self._middle(seen.rerun)
        scores, after = screen(seen, target, layer)
        budget = self.max_cost - gradient_cost(seen)
        by_size = (write_norms(seen) / share).argsort(descending=True, stable=True)
        order = alternate(scores.abs().argsort(descending=True, stable=True), by_size)
        if layer is not None and after is not None:
            through = cost_through(seen.rerun, layer)
            part = affordable_prefix(order, share * through, budget * (1 - self.kept) - through)
            if len(part):
                scores[part] = effects_through(seen, target, layer, after, part)
                budget -= float((share * through)[part].sum()) + through
            order = scores.argsort(descending=True, stable=True)
        full = affordable_prefix(order, share * seen.rerun.fraction, budget - seen.rerun.fraction)
        if len(full):
            scores[full] = ablate(seen, target, full, batch_rows=BATCH_ROWS).effect
        return scores

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """Return at most this: `max_cost`, or the cost of ablating every latent."""
        all_of_it = forward_equivalents(seen, torch.arange(seen.n_active)) - 1
        most = gradient_cost(seen) + seen.rerun.fraction + all_of_it
        return max(gradient_cost(seen), min(self.max_cost, most))

    def _middle(self, rerun: Rerun) -> int | None:
        """Return the block after which the gradient is taken; None if it is not after the site."""
        layer = math.ceil(self.until * rerun.decoder.n_layers)
        return layer if layer in rerun.later_blocks else None


@torch.no_grad()
def stream_after(
    rerun: Rerun, activation: Float[Tensor, "batch pos d_in"], layer: int, *, start: int = 0
) -> Float[Tensor, "batch left d_model"]:
    """Return the residual stream after block `layer`, at the positions from `rerun_start` on.

    As `Rerun.logits`, but nothing after that block is run.
    """
    start, cache = rerun.cache_before(start, len(activation))
    block = rerun.decoder.block(layer)
    with rerun.from_site(activation, start) as token_ids:
        outputs = rerun.decoder.capture(
            {"at": block}, block, token_ids, None, stop=True, cache=cache
        )
    return first(outputs["at"])


def screen(
    seen: SeenPrompt, target: Target, layer: int | None
) -> tuple[Float[Tensor, " active"], Float[Tensor, "pos d_in"] | None]:
    """Return gradient x activation, and the gradient at the stream after `layer`: one backward."""
    watching = nullcontext([]) if layer is None else watch_stream(seen.rerun, layer)
    with watching as streams:
        grad, after = gradient_and(seen, target, seen.codes[None], lambda _: streams)
    return (grad[0] * seen.codes).sum(0), after[0][0] if after else None


@torch.no_grad()
def effects_through(
    seen: SeenPrompt,
    target: Target,
    layer: int,
    gradient: Float[Tensor, "pos d_in"],
    columns: Int[Tensor, " part"],
) -> Float[Tensor, " part"]:
    """Return the effects of latents, exact up to the stream after `layer` and linear from there.

    What an ablation takes from the stream is a difference between two rows of one batch, as in
    `ablate_all`.
    """
    effect = seen.codes.new_empty(len(columns))
    opens = seen.first_open(columns).clamp_max(first_read(seen, [target]))
    removed = batches(seen, lambda part: seen.without(columns[part]), opens, BATCH_ROWS)
    for part, rows, start in removed:
        stream = stream_after(seen.rerun, rows, layer, start=start).to(gradient.dtype)
        removed = stream[:1] - stream[1:]
        effect[part] = (removed * gradient[-stream.shape[1] :]).sum((1, 2))
    return effect
