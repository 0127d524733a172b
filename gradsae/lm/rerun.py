"""Re-run a decoder from one site on: the cheap way to see what many edits of one prompt do.

Blocks before the site hand their input through and the site's own output is replaced, so the rest
of the transformers model (masks, rotary positions, final norm, head) runs as it always does. Rows
that leave the first positions alone may skip those: their keys and values are the clean pass's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradsae.lm.attention import Heads, watched
from gradsae.lm.backward_rules import Rules
from gradsae.lm.decoder import Decoder, first, with_first
from gradsae.lm.key_values import Past, empty_cache, kept_in
from gradsae.lm.norms import Reader, reading
from gradsae.lm.sites import Site

REUSE_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest misfit, relative to the largest logit, of a run on clean keys and values."""


def run_to(decoder: Decoder, site: Site, token_ids: Int[Tensor, "1 pos"]) -> "Suffix":
    """Run one prompt up to the site and keep what a re-run from there needs."""
    decoder.check_site(site)
    layout, block = decoder.layout, decoder.module(Site("resid_post", site.layer))
    paths = {"resid_post": "block", "attn_out": layout.attn_out, "mlp_out": layout.mlp_out}
    halves = (layout.attn, layout.attn_out, layout.mlp, layout.mlp_out)
    watched = {path: block.get_submodule(path) for path in halves if path is not None}
    seen = decoder.capture({**watched, "block": block}, block, token_ids, None, stop=True)
    return Suffix(
        decoder=decoder,
        site=site,
        token_ids=token_ids,
        clean=first(seen[paths[site.kind] or ""])[0],
        _block_input=seen["block.input"],
        _outputs=seen,
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Suffix:
    """The part of the model after one site, for one prompt: many edited activations, cheaply."""

    decoder: Decoder
    site: Site
    token_ids: Int[Tensor, "1 pos"]
    clean: Float[Tensor, "pos d_in"]
    """The site's activation in the unedited pass, in the model's dtype."""
    _block_input: Float[Tensor, "1 pos d_in"]
    _outputs: dict[str, Any]
    """Clean outputs of the site's block and its halves."""

    @property
    def fraction(self) -> float:
        """Forward-equivalents of `logits` per row: the share of blocks that is run again.

        (n_layers - layer - 1) / n_layers; for attn_out one block more, as its MLP is run again
        (counted whole). Embedding and unembedding are not counted.
        """
        n_blocks = self.decoder.n_layers - self.site.layer - (self.site.kind != "attn_out")
        return n_blocks / self.decoder.n_layers

    def begin(self, start: int) -> int:
        """Return where a run of rows that are clean before `start` begins.

        The first call may run the suffix once to get the clean keys and values. The answer is 0
        where they cannot be used again: the model takes no key-value cache or keeps another state.
        """
        return start if start > 0 and self._clean_past is not None else 0

    def logits(
        self,
        activation: Float[Tensor, "batch pos d_in"],
        positions: Sequence[int] | None = None,
        *,
        start: int = 0,
    ) -> Float[Tensor, "batch n_positions vocab"]:
        """Float32 logits with the site's activation replaced, one row per replacement.

        The same as a full pass with that edit (to rounding), and differentiable with respect to
        `activation`. `start` says that no row differs from `clean` before that position and that no
        logits are read there: those positions are not run again (see `begin`).
        """
        start, past = self._past(start, len(activation))
        return self._logits(activation, positions, start, past)

    def logits_and_past(
        self,
        activation: Float[Tensor, "batch pos d_in"],
        positions: Sequence[int],
        *,
        start: int = 0,
    ) -> tuple[Float[Tensor, "batch n_positions vocab"], Past | None]:
        """The same, and each row's keys and values of the blocks after the site, for more tokens.

        Those are None for a model that takes no key-value cache or keeps another state.
        """
        if self._clean_past is None:
            return self._logits(activation, positions, 0, None), None
        start, cache = self._past(start, len(activation))
        cache = empty_cache(self.decoder.model) if cache is None else cache
        return self._logits(activation, positions, start, cache), self._kept_in(cache)

    def _logits(
        self, activation: Tensor, positions: Sequence[int] | None, start: int, past: Any
    ) -> Tensor:
        """Logits of a run from `start` on; `past` holds what is before, and is added to."""
        if activation.shape[1:] != self.clean.shape:
            expected = ("batch", *self.clean.shape)
            raise ValueError(f"activation must be {expected}, got {tuple(activation.shape)}")
        if start == 0:
            return self._run(activation, 0, past, positions)
        n_pos = len(self.clean)
        read = [
            p + n_pos if p < 0 else p for p in (range(n_pos) if positions is None else positions)
        ]
        if min(read) < start:
            raise ValueError(f"logits are read at {min(read)}, before start={start}")
        return self._run(activation, start, past, [p - start for p in read])

    @torch.no_grad()
    def advance(
        self, activation: Float[Tensor, "batch pos d_in"], layer: int, *, start: int = 0
    ) -> Float[Tensor, "batch left d_in"]:
        """The residual stream after a later block, at the positions from `begin(start)` on.

        As `logits`, but nothing after that block is run.
        """
        start, past = self._past(start, len(activation))
        block = self.decoder.module(Site("resid_post", layer))
        with self._replaced(activation, start) as token_ids:
            seen = self.decoder.capture({"at": block}, block, token_ids, None, stop=True, past=past)
        return first(seen["at"])

    @torch.no_grad()
    def alone(
        self, activation: Float[Tensor, "batch d_in"], at: int, layer: int
    ) -> tuple[Past, Float[Tensor, "batch d_in"]] | None:
        """What one position leaves in the blocks up to a later one, given its activation.

        Its keys and values [batch heads 1 d_head] there, and its stream after that block. What
        comes before it is clean, and nothing after it is run. None for a model that takes no
        key-value cache or keeps another state.
        """
        if self._clean_past is None:
            return None
        rows = self.clean.repeat(len(activation), 1, 1)
        rows[:, at] = activation.to(rows.dtype)
        start, cache = self._past(at, len(rows))
        cache = empty_cache(self.decoder.model) if cache is None else cache
        block, n_before = self.decoder.module(Site("resid_post", layer)), self.site.layer + 1
        with self._replaced(rows, start, at + 1) as token_ids:
            seen = self.decoder.capture(
                {"at": block}, block, token_ids, None, stop=True, past=cache
            )
        stream = first(seen["at"])[:, -1]
        if layer < n_before:  # of attn_out: its own block's MLP alone
            return Past(n_before=n_before, layers=[]), stream
        past = kept_in(cache, n_before, layer + 1, at + 1)
        return None if past is None else (past.at(at), stream)

    @contextmanager
    def attention(self) -> Iterator[dict[int, Heads]]:
        """Collect the attention of the blocks after the site in a run of a while."""
        with ExitStack() as stack:
            found = stack.enter_context(watched(self.decoder.model))

            def adding(layer: int) -> Callable[..., Any]:
                def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                    if layer in found:
                        found[layer] = replace(found[layer], added=first(output)[0].detach())

                return hook

            layout, blocks = self.decoder.layout, self.later_layers
            path = layout.attn_out
            if path is not None and path == layout.attn:  # no norm of its own after it
                named = [(i, self.decoder.module(Site("resid_post", i))) for i in blocks]
                halves = [(block.get_submodule(path), adding(i)) for i, block in named]
                stack.enter_context(self.decoder.hooked(halves))
            yield found

    def share_to(self, layer: int) -> float:
        """Forward-equivalents of `advance` to this block, per row."""
        return self.fraction - (self.decoder.n_layers - 1 - layer) / self.decoder.n_layers

    @contextmanager
    def tap(self, layer: int | None) -> Iterator[list[Tensor]]:
        """Collect what a later block hands on in each run of a while, with its graph."""
        found: list[Tensor] = []
        hooks: list[tuple[nn.Module, Callable[..., Any]]] = []
        if layer is not None:
            block = self.decoder.module(Site("resid_post", layer))
            hooks = [(block, lambda _module, _args, output: found.append(first(output)))]
        with self.decoder.hooked(hooks):
            yield found

    @property
    def n_layers(self) -> int:
        return self.decoder.n_layers

    @property
    def later_layers(self) -> range:
        """Blocks after the site; after `attn_out` that is the MLP of its own block too."""
        first_later = self.site.layer + (self.site.kind != "attn_out")
        return range(first_later, self.decoder.n_layers)

    @contextmanager
    def backward(self, rules: Rules) -> Iterator[None]:
        """Let gradients through the later blocks and the final norm follow other rules."""
        layout, model = self.decoder.layout, self.decoder.model
        halves = [path for path in (layout.attn_out, layout.mlp_out) if path is not None]
        hooks = list(rules.outside(model, layout.blocks))
        for layer in self.later_layers:
            block = self.decoder.module(Site("resid_post", layer))
            adds = [block.get_submodule(path) for path in halves]
            hooks += rules.in_block(layer, block, adds)
        own = self.decoder.module(self.site)  # stands for the edit, which no rule may touch
        with self.decoder.hooked((module, hook) for module, hook in hooks if module is not own):
            yield

    @contextmanager
    def readers(self) -> Iterator[list[Reader]]:
        """Collect the norms that read the stream after the site, from one run of a while."""
        found: list[Reader] = []
        layout, model = self.decoder.layout, self.decoder.model
        blocks = list(model.get_submodule(layout.blocks))[self.site.layer :]
        named = model.named_modules()
        outside = [each for name, each in named if not name.startswith(f"{layout.blocks}.")]
        entry = self._block_input
        with self.decoder.hooked(reading(blocks, layout.attn_out, outside, entry, found)):
            yield found

    @torch.no_grad()
    def lens(self, directions: Float[Tensor, "n d_in"]) -> Float[Tensor, "n vocab"]:
        """Logits of each direction alone in the residual stream: final norm and head, no blocks."""
        last = Site("resid_post", self.decoder.n_layers - 1)
        bare = run_to(self.decoder, last, self.token_ids[:, :1])
        return bare.logits(directions[:, None], [-1])[:, 0]

    def _run(
        self, activation: Tensor, start: int, past: Any, positions: Sequence[int] | None
    ) -> Tensor:
        """Logits at positions counted from `start`, after the tokens that `past` holds."""
        with self._replaced(activation, start) as token_ids:
            return self.decoder.forward(token_ids, None, positions, past)

    def _past(self, start: int, n_rows: int) -> tuple[int, Any]:
        """Where a run begins, and a cache of what is before (None at 0)."""
        start = self.begin(start)
        if start == 0 or self._clean_past is None:
            return 0, None
        return start, self._clean_past.cache(start, n_rows)

    @contextmanager
    def _replaced(
        self, activation: Tensor, start: int, stop: int | None = None
    ) -> Iterator[Tensor]:
        """Let the model begin at the site for a while; yields the tokens from `start` to `stop`."""
        run = slice(start, stop)
        value = activation[:, run].to(self._block_input.dtype)
        blocks = self.decoder.model.get_submodule(self.decoder.layout.blocks)
        with ExitStack() as stack:
            for block in list(blocks)[: self.site.layer]:
                stack.enter_context(_patched(block, self._hand_through))
            for module, forward in self._replacements(blocks[self.site.layer], value, run):
                stack.enter_context(_patched(module, forward))
            yield self.token_ids[:, run].expand(len(value), -1)

    @cached_property
    def _clean_past(self) -> Past | None:
        """None unless the last position, run on clean keys and values, gives the clean logits."""
        n_pos = len(self.clean)
        cache = empty_cache(self.decoder.model)
        if cache is None:
            return None
        with torch.no_grad():
            whole = self._run(self.clean[None], 0, cache, [-1])
            past = self._kept_in(cache)
            if past is None:
                return None
            again = self._run(self.clean[None], n_pos - 1, past.cache(n_pos - 1, 1), [-1])
        misfit = (again - whole).abs().max()
        fits = misfit <= REUSE_TOLERANCE[self.clean.dtype] * whole.abs().max()
        return past if bool(fits) else None

    def _kept_in(self, cache: Any) -> Past | None:
        """Keys and values of the blocks after the site's, from a cache that a run has filled."""
        n_before, n_layers = self.site.layer + 1, self.decoder.n_layers
        return None if cache is None else kept_in(cache, n_before, n_layers, len(self.clean))

    def _hand_through(self, *args: Any, **kwargs: Any) -> Any:
        return with_first(self._outputs["block"], args[0] if args else kwargs["hidden_states"])

    def _replacements(
        self, block: nn.Module, value: Tensor, run: slice
    ) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
        """Modules of the site's block and the functions that stand in for them."""
        layout, out = self.decoder.layout, self._outputs
        if self.site.kind == "resid_post":
            yield block, _returning(with_first(out["block"], value))
            return
        forward = block.forward
        before = self._block_input[:, run].expand(len(value), -1, -1)

        def run_on_clean_input(*args: Any, **kwargs: Any) -> Any:
            return forward(
                before, *args[1:], **{k: v for k, v in kwargs.items() if k != "hidden_states"}
            )

        yield block, run_on_clean_input
        replay = [layout.attn, layout.attn_out]
        edited = layout.attn_out
        if self.site.kind == "mlp_out":
            replay += [layout.mlp, layout.mlp_out]
            edited = layout.mlp_out
        for path in dict.fromkeys(p for p in replay if p is not None):
            clean = first(out[path])[:, run]
            yield (
                block.get_submodule(path),
                _returning(with_first(out[path], value if path == edited else clean)),
            )


def _returning(value: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: value


@contextmanager
def _patched(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Stand `forward` in for a module's own; its hooks, attributes and index stay as they are."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
