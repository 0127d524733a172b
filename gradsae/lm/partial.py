"""Parts of a rerun: a single position, and what blocks hand on or read on the way."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsae.lm.attention import Heads, watched
from gradsae.lm.key_values import KeyValues, read_cache
from gradsae.lm.outputs import first
from gradsae.lm.rerun import Rerun


def cost_through(rerun: Rerun, layer: int) -> float:
    """Return the cost per row of a rerun that stops after block `layer`, in full forward passes."""
    n_layers = rerun.decoder.n_layers
    return rerun.fraction - (n_layers - 1 - layer) / n_layers


@torch.no_grad()
def run_one_position(
    rerun: Rerun, activation: Float[Tensor, "batch d_in"], at: int, layer: int
) -> tuple[KeyValues, Float[Tensor, "batch d_model"]] | None:
    """Run position `at` alone through block `layer`, once for each edited activation there.

    Returns its keys and values in the blocks after the site up to that one ([batch heads 1
    d_head]), and its stream after that block. Earlier positions are clean and later ones are not
    run. None for a model whose key-value cache cannot be reused.
    """
    if not rerun.can_reuse:
        return None
    rows = rerun.clean.repeat(len(activation), 1, 1)
    rows[:, at] = activation.to(rows.dtype)
    start, cache = rerun.cache_before(at, len(rows))
    cache = rerun.decoder.empty_cache() if cache is None else cache
    block, n_before = rerun.decoder.block(layer), rerun.site.layer + 1
    with rerun.from_site(rows, start, at + 1) as token_ids:
        outputs = rerun.decoder.capture(
            {"at": block}, block, token_ids, None, stop=True, cache=cache
        )
    stream = first(outputs["at"])[:, -1]
    if layer < n_before:  # the site is attn_out of this block: only its MLP was run
        return KeyValues(n_before=n_before, blocks=[]), stream
    key_values = read_cache(cache, n_before, layer + 1, at + 1)
    return None if key_values is None else (key_values.at(at), stream)


@contextmanager
def watch_stream(rerun: Rerun, layer: int) -> Iterator[list[Tensor]]:
    """Collect what block `layer` hands on in each rerun of the block, with its graph."""
    streams: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        streams.append(first(output))

    with rerun.decoder.hooked([(rerun.decoder.block(layer), keep)]):
        yield streams


@contextmanager
def watch_attention(rerun: Rerun) -> Iterator[dict[int, Heads]]:
    """Collect the attention of the blocks after the site in a rerun, by block."""
    decoder = rerun.decoder
    with ExitStack() as stack:
        heads = stack.enter_context(watched(rerun.decoder.model))

        def add_output(layer: int) -> Callable[..., Any]:
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                if layer in heads:
                    heads[layer] = replace(heads[layer], added=first(output)[0].detach())

            return hook

        halves: list[tuple[nn.Module, Callable[..., Any]]] = []
        for i in rerun.later_blocks:
            layout = decoder.layout_of(i)
            if layout.attn and layout.attn == layout.attn_out:  # no norm before the stream
                halves.append((decoder.block(i).get_submodule(layout.attn), add_output(i)))
        stack.enter_context(decoder.hooked(halves))
        yield heads
