"""Norms that read the residual stream: pre-norm blocks and the head see it only through them.

The gradient of a target with respect to the stream at one position is the sum over these norms of
J_l' g_l (J_l: the norm's own slope, g_l: the target's gradient at its output). A norm is a known
function, so its term can be taken exactly:

    g_l . (norm_l(x_l) - norm_l(x_l - d))     in place of     g_l . J_l d

d is what an entry writes. The term is exact as long as everything after the norm is linear, and
needs no further run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradsae.influence.estimators.contrib.backward_rules import Hook, is_norm
from gradsae.lm.outputs import first
from gradsae.lm.rerun import Rerun


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
        positions: Int[Tensor, " rows"],
        removed: Float[Tensor, "rows d_in"],
    ) -> Float[Tensor, " rows"]:
        """Return the exact loss of the target through this norm, less its linear estimate.

        Row i takes `removed[i]` out of the stream at `positions[i]`. `slope` is the gradient of the
        target at the norm's output.
        """
        x = self.stream.float()
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            out = _apply(self.norm, leaf)
            (straight,) = torch.autograd.grad(out, leaf, slope.float())
        with torch.no_grad():
            lost = out[positions] - _apply(self.norm, x[positions] - removed)
            return (lost * slope[positions]).sum(1) - (straight[positions] * removed).sum(1)


@contextmanager
def watch_norms(rerun: Rerun) -> Iterator[list[Reader]]:
    """Collect the norms that read the stream after the site, from one rerun."""
    readers: list[Reader] = []
    layout, model = rerun.decoder.layout, rerun.decoder.model
    layers = range(rerun.site.layer, rerun.decoder.n_layers)
    blocks = [(rerun.decoder.block(i), rerun.decoder.layout_of(i).attn_out) for i in layers]
    named = model.named_modules()
    outside = [module for name, module in named if not name.startswith(f"{layout.blocks}.")]
    hooks = reading(blocks, outside, rerun.block_input, readers)
    with rerun.decoder.hooked(hooks):
        yield readers


def reading(
    blocks: Sequence[tuple[nn.Module, str | None]],
    outside: Sequence[nn.Module],
    entry: Tensor | None,
    readers: list[Reader],
) -> Iterator[Hook]:
    """Yield hooks that append to `readers`, in the order in which the norms run.

    `blocks` begin with the one that holds the site, each with its `attn_out`; `outside` are the
    modules after the last block, and `entry` is what the first block reads. A norm reads the stream
    if its input is what enters its block, or that plus the output of `attn_out`. A model without
    such norms has no readers.
    """
    stream: dict[str, Tensor | None] = {"entry": entry, "middle": None}

    def left(_module: nn.Module, _args: Any, output: Any) -> None:
        stream.update(entry=first(output), middle=None)

    def half(_module: nn.Module, _args: Any, output: Any) -> None:
        before = stream["entry"]
        stream["middle"] = None if before is None else before + first(output)

    def norm(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        x = args[0]
        is_stream = any(tensor is not None and _same(x, tensor) for tensor in stream.values())
        if is_stream and x.requires_grad:
            readers.append(Reader(norm=module, stream=x[0].detach(), out=output))

    for block, attn_out in blocks:
        if attn_out is not None:
            yield block.get_submodule(attn_out), half
        yield from ((module, norm) for module in block.modules() if is_norm(module))
        yield block, left
    yield from ((module, norm) for module in outside if is_norm(module))


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and bool(torch.equal(x, y))


def _apply(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply the norm in float32, whatever the dtype of its weights."""
    if isinstance(norm, nn.LayerNorm):
        gain, shift = (None if w is None else w.float() for w in (norm.weight, norm.bias))
        return nn.functional.layer_norm(x, norm.normalized_shape, gain, shift, norm.eps)
    forward: Callable[[Tensor], Tensor] = norm.forward
    return forward(x).float()
