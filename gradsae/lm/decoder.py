"""Run a transformers decoder while hooks watch or edit its blocks.

This is the only file that calls the model. Batches are unpadded or padded on the right, and there
is no key-value cache unless one is handed in (`gradsae.lm.rerun`). Hooks are set on the shared
model and removed at the end of the call, so one model must not be used from two threads at once.

Two other files change the model for a while: `rerun` replaces the `forward` of blocks, and
`attention` switches the attention implementation.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import Any, final

import torch
from torch import Tensor, nn

from gradsae.errors import UserError
from gradsae.lm.sites import Layout, Site, find_module

Edit = tuple[Site, Callable[[Tensor], Tensor]]
"""Where, and the function from the site's activation [batch pos d_in] to the one used instead."""

# Largest relative misfit of "block output = input + attn_out + mlp_out" that rounding explains.
ADDITIVE_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 3e-2}
N_PROBE_TOKENS = 8
CACHE_WORDS = ("cache", "past_key_values")
"""What versions of transformers call the key-value cache of a forward pass."""


class _Stop(Exception):  # noqa: N818  not an error
    """Raised by a hook to end a pass: every wanted output has been captured."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Decoder:
    """A transformers causal LM and where its sites are."""

    name: str
    """For messages."""
    model: Any
    layout: Layout
    n_layers: int
    max_context: int
    _checked: set[int] = field(default_factory=set, repr=False)
    """Layers whose block output was found to be input + attention + MLP."""
    notes: list[str] = field(default_factory=list, repr=False)
    """What is slower on this model than on others, and why; records keep it."""

    @cached_property
    def cache_word(self) -> str | None:
        """The keyword under which the model takes a cache and fills it; None if it does not.

        The model is asked by a pass over one token: names in a signature differ between versions,
        and a keyword that is not known may be swallowed.
        """
        token = torch.zeros(1, 1, dtype=torch.long, device=next(self.model.parameters()).device)
        for word in CACHE_WORDS:
            cache = _new_cache()
            with suppress(Exception), torch.no_grad():  # another word, or a cache of another kind
                self.model(input_ids=token, use_cache=False, **{word: cache})
                if n_cached(cache) == 1:
                    return word
        return None

    def empty_cache(self) -> Any:
        """Return an empty transformers cache, or None if the model takes none.

        The cache is made without a config, so it keeps every position in every block. The masks of
        blocks with a sliding window read the config themselves.
        """
        return None if self.cache_word is None else _new_cache()

    def note(self, text: str) -> None:
        """Say something about this model on stderr, once, and keep it for records."""
        if text not in self.notes:
            self.notes.append(text)
            sys.stderr.write(f"{self.name}: {text}\n")

    def module(self, site: Site) -> nn.Module:
        """Return the module whose output is the site's activation."""
        return find_module(self.model, self.layout, site)

    def block(self, layer: int) -> nn.Module:
        """Return a decoder block; its output is the residual stream after it."""
        return self.module(Site("resid_post", layer))

    def check_site(self, site: Site) -> None:
        """Raise UserError unless this model has the site.

        The outputs of attention and MLP must be what the block adds to the residual stream; that
        is tried once per layer, on a few tokens.
        """
        if site.layer >= self.n_layers:
            raise UserError(
                f"layer {site.layer} is out of range: {self.name} has layers 0 to "
                f"{self.n_layers - 1}"
            )
        self.module(site)
        if site.kind != "resid_post" and site.layer not in self._checked:
            self._check_additive(site.layer)
            self._checked.add(site.layer)

    def read(
        self, site: Site, token_ids: Tensor, attention_mask: Tensor | None, *, stop: bool
    ) -> Tensor:
        """Return the site's activation [batch pos d_in]. With `stop` nothing after it is run."""
        self.check_site(site)
        module = self.module(site)
        seen = self.capture({"site": module}, module, token_ids, attention_mask, stop=stop)
        return first(seen["site"])

    def logits(
        self,
        token_ids: Tensor,
        attention_mask: Tensor | None,
        *,
        edit: Edit | None,
        positions: Sequence[int] | None,
        cache: Any = None,
    ) -> Tensor:
        """Return float32 logits [batch n_positions vocab], with the site's activation edited."""
        with ExitStack() as stack:
            if edit is not None:
                site, change = edit
                self.check_site(site)
                handle = self.module(site).register_forward_hook(_editing(change))
                stack.callback(handle.remove)
            return self.forward(token_ids, attention_mask, positions, cache)

    def capture(
        self,
        watched: dict[str, nn.Module],
        last: nn.Module,
        token_ids: Tensor,
        attention_mask: Tensor | None,
        *,
        stop: bool,
        cache: Any = None,
    ) -> dict[str, Any]:
        """Return the outputs of the watched modules by name, and the input of "block".

        With `stop` the pass ends after module `last`.
        """
        seen: dict[str, Any] = {}
        with ExitStack() as stack:
            for name, module in watched.items():
                hook = _keeping(seen, name, stop=stop and module is last)
                handle = module.register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            with suppress(_Stop):
                self.forward(token_ids, attention_mask, [-1], cache)
        return seen

    def forward(
        self,
        token_ids: Tensor,
        attention_mask: Tensor | None,
        positions: Sequence[int] | None,
        cache: Any = None,
    ) -> Tensor:
        """Return float32 logits at the positions. The only call of the transformers model.

        `cache` is a transformers cache with the keys and values of the tokens before these. The
        pass adds its own. Raises UserError for an empty or too long prompt, left padding, positions
        outside the prompt, or logits that are not finite.
        """
        self._check_tokens(token_ids)
        n_past = 0 if cache is None else n_cached(cache)
        whole_mask = torch.ones_like(token_ids[:, :1]).expand(-1, n_past + token_ids.shape[1])
        mask = whole_mask if attention_mask is None else attention_mask
        if not bool(mask[:, 0].all()):
            raise UserError("only right padding is supported: attention_mask is 0 at position 0")
        n = token_ids.shape[1]
        rows = range(n) if positions is None else [p + n if p < 0 else p for p in positions]
        if any(not 0 <= row < n for row in rows):
            raise UserError(f"positions {list(positions or ())} are outside a prompt of {n} tokens")
        keep = torch.tensor(list(rows), device=token_ids.device)
        whole = (
            positions is None or "logits_to_keep" not in signature(self.model.forward).parameters
        )
        extra = {} if whole else {"logits_to_keep": keep}
        extra |= {} if cache is None else {self.cache_word: cache}
        logits = self.model(
            input_ids=token_ids, attention_mask=mask, use_cache=False, **extra
        ).logits.float()
        logits = logits[:, keep] if whole and positions is not None else logits
        if not bool(torch.isfinite(logits).all()):
            raise UserError(
                f"{self.name}: logits are not finite (weights, dtype or edit too large)"
            )
        return logits

    @contextmanager
    def hooked(self, hooks: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
        """Set forward hooks for a while, to run in the order given."""
        with ExitStack() as stack:
            for module, hook in hooks:
                stack.callback(module.register_forward_hook(hook).remove)
            yield

    def _check_tokens(self, token_ids: Tensor) -> None:
        n = token_ids.shape[1]
        if n == 0 or token_ids.shape[0] == 0:
            raise UserError("empty prompt: there are no tokens")
        if n > self.max_context:
            raise UserError(f"{n} tokens exceed the context of {self.name} ({self.max_context})")

    def _check_additive(self, layer: int) -> None:
        """Raise UserError unless block output = input + attn_out + mlp_out on a few tokens."""
        if self.layout.attn_out is None or self.layout.mlp_out is None:
            return  # nothing to compare with
        block = self.module(Site("resid_post", layer))
        watched = {"block": block}
        watched["attn"] = self.module(Site("attn_out", layer))
        watched["mlp"] = self.module(Site("mlp_out", layer))
        middle = self.model.get_input_embeddings().num_embeddings // 2  # no special tokens there
        token_ids = middle + torch.arange(N_PROBE_TOKENS, device=self.model.device)[None]
        with torch.no_grad():
            seen = self.capture(watched, block, token_ids, None, stop=True)
        parts = (seen["block.input"], first(seen["attn"]), first(seen["mlp"]), first(seen["block"]))
        # Position 0 may be a hundred times larger than the rest and would hide their misfit.
        before, attn, mlp, after = (part[:, 1:].double() for part in parts)
        misfit = (after - before - attn - mlp).norm()
        scale = before.norm() + attn.norm() + mlp.norm()
        if misfit > ADDITIVE_TOLERANCE[parts[0].dtype] * scale:
            raise UserError(
                f"{self.name}: a block of {type(self.model).__name__} is not input + attention + "
                f"MLP with {self.layout.attn_out!r} and {self.layout.mlp_out!r} (misfit "
                f"{float(misfit / scale):.1%}). Set model.attn_path and model.mlp_path to the "
                "modules whose outputs are added, or use resid_post."
            )


def first(output: Any) -> Tensor:
    """Return the hidden state in a module's output, which may be a tuple."""
    return output[0] if isinstance(output, tuple) else output


def with_first(output: Any, hidden: Tensor) -> Any:
    """Return a module's output with another hidden state in it."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _editing(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        before = first(output)
        after = change(before)
        if after.shape != before.shape:
            raise ValueError(f"an edit must keep the shape {tuple(before.shape)}: {after.shape}")
        return with_first(output, after.to(before.dtype))

    return hook


def _keeping(seen: dict[str, Any], name: str, *, stop: bool) -> Callable[..., None]:
    def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        seen[name] = output
        if name == "block":
            seen["block.input"] = args[0] if args else kwargs["hidden_states"]
        if stop:
            raise _Stop

    return hook


def n_cached(cache: Any) -> int:
    """Return the number of positions that a transformers cache holds, in any of its blocks."""
    return max((layer.get_seq_length() for layer in cache.layers), default=0)


def _new_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()
