"""Norms that read the residual stream: all that a pre-norm block, or the head, sees of it.

What leaves the stream at one position moves each reader at once, beside what earlier blocks make of
it; so the gradient of a target there is the sum of what the readers hand back, J_l' g_l (J_l: the
norm's own slope, g_l: the target's gradient at its output). A norm is a known function: its part

    g_l . (norm_l(x_l) - norm_l(x_l - gone))     in place of     g_l . J_l gone

is exact for as long as everything behind it is linear, at no further run of the model.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradsae.lm.backward_rules import Hook, is_norm
from gradsae.lm.decoder import first


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """One norm in one pass of one prompt."""

    norm: nn.Module
    stream: Float[Tensor, "pos d_in"]
    """What it reads."""
    out: Float[Tensor, "1 pos d_in"]
    """With its graph, so that the target's gradient can be taken with respect to it."""

    def bend(
        self,
        slope: Float[Tensor, "pos d_in"],
        at: Int[Tensor, " rows"],
        gone: Float[Tensor, "rows d_in"],
    ) -> Float[Tensor, " rows"]:
        """Return what the target loses by this norm when each row leaves the stream `at` its place,
        less the share that the gradient there has of it. `slope` is the target's at the output.
        """
        x = self.stream.float()
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            out = _apply(self.norm, leaf)
            (straight,) = torch.autograd.grad(out, leaf, slope.float())
        with torch.no_grad():
            lost = out[at] - _apply(self.norm, x[at] - gone)
            return (lost * slope[at]).sum(1) - (straight[at] * gone).sum(1)


def reading(
    blocks: Sequence[nn.Module],
    attn_out: str | None,
    outside: Sequence[nn.Module],
    entry: Tensor | None,
    found: list[Reader],
) -> Iterator[Hook]:
    """Yield hooks that collect the readers of a pass of one prompt, in the order in which they run.

    `blocks` begin with the one that holds the site, `outside` are the modules after the last of
    them, and `entry` is what that first block reads. A norm is a reader if it is given what enters
    its block, or that and the output of `attn_out`. A model without such norms has none.
    """
    stream: dict[str, Tensor | None] = {"entry": entry, "middle": None}

    def left(_module: nn.Module, _args: Any, output: Any) -> None:
        stream.update(entry=first(output), middle=None)

    def half(_module: nn.Module, _args: Any, output: Any) -> None:
        before = stream["entry"]
        stream["middle"] = None if before is None else before + first(output)

    def norm(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        x = args[0]
        given = any(seen is not None and _same(x, seen) for seen in stream.values())
        if given and x.requires_grad:
            found.append(Reader(norm=module, stream=x[0].detach(), out=output))

    for block in blocks:
        if attn_out is not None:
            yield block.get_submodule(attn_out), half
        yield from ((module, norm) for module in block.modules() if is_norm(module))
        yield block, left
    yield from ((module, norm) for module in outside if is_norm(module))


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and bool(torch.equal(x, y))


def _apply(norm: nn.Module, x: Tensor) -> Tensor:
    """The norm in float32, whatever its weights are kept in."""
    if isinstance(norm, nn.LayerNorm):
        gain, shift = (None if w is None else w.float() for w in (norm.weight, norm.bias))
        return nn.functional.layer_norm(x, norm.normalized_shape, gain, shift, norm.eps)
    forward: Callable[[Tensor], Tensor] = norm.forward
    return forward(x).float()
