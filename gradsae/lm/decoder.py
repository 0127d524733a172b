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
from typing import Any, final

import torch
from torch import Tensor, nn

from gradsae.errors import UserError
from gradsae.lm.outputs import copied, first, hidden_in, with_first
from gradsae.lm.sites import Layout, Site, find_module, layout_of

Edit = tuple[Site, Callable[[Tensor], Tensor]]
"""Where, and the function from the site's activation [batch pos d_in] to the one used instead."""

# Largest relative misfit of "block output = input + attn_out + mlp_out" that rounding explains.
ADDITIVE_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 3e-2}
N_PROBE_TOKENS = 8
CACHE_WORDS = ("cache", "past_key_values")
"""What versions of transformers call the key-value cache of a forward pass."""
LOGITS_WORD = "logits_to_keep"
"""What transformers calls the positions at which logits are computed."""


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
    reruns: set[Site] = field(default_factory=set, repr=False)
    """Sites from which a rerun was found to give what a whole pass gives."""
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

    @cached_property
    def skips_logits(self) -> bool:
        """True if the model computes logits at given positions only, when it is told them.

        Asked by two passes, for the reasons of `cache_word`; raises what the model raises there.
        """
        tokens, row = self.probe(), torch.tensor([1], device=self.model.device)
        with torch.no_grad():
            whole = self.model(input_ids=tokens, use_cache=False).logits[:, row].float()
            with suppress(Exception):  # it takes no such keyword, or no tensor under it
                words = {LOGITS_WORD: row}
                part = self.model(input_ids=tokens, use_cache=False, **words).logits.float()
                tolerance = ADDITIVE_TOLERANCE[self.model.dtype]
                if part.shape == whole.shape and (part - whole).norm() <= tolerance * whole.norm():
                    return True
        self.note(
            "logits are computed at all positions, which takes more time and memory: the model "
            f"does not compute those of {LOGITS_WORD} alone"
        )
        return False

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
        return find_module(self.model, self.layout_of(site.layer), site)

    def layout_of(self, layer: int) -> Layout:
        """Return the module paths of one block."""
        block = self.model.get_submodule(self.layout.blocks)[layer]
        given = {"attn_path": self.layout.attn_path, "mlp_path": self.layout.mlp_path}
        return layout_of(block, self.layout.blocks, **given)

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
        return hidden_in(seen["site"], len(token_ids))

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
                hook = _editing(change, len(token_ids))
                handle = self.module(site).register_forward_hook(hook)
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
        if stop and not any(module is last and name in seen for name, module in watched.items()):
            raise UserError(
                f"{self.name}: a {type(self.model).__name__} does not run a {type(last).__name__} "
                "that was asked for on the tokens of a text alone: take another layer"
            )
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
        whole = positions is None or not self.skips_logits
        extra: dict[str, Any] = {} if whole else {LOGITS_WORD: keep}
        if cache is not None and self.cache_word is not None:
            extra[self.cache_word] = cache
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
        block, layout = self.block(layer), self.layout_of(layer)
        halves = [path for path in (layout.attn_out, layout.mlp_out) if path is not None]
        watched = {"block": block, **{path: block.get_submodule(path) for path in halves}}
        with torch.no_grad():
            seen = self.capture(watched, block, self.probe(), None, stop=True)
        before, after = seen["block.input"], first(seen["block"])
        added = [hidden_in(seen[path], 1) for path in halves if path in seen]
        misfit = 1.0
        if all(part.shape == before.shape for part in (after, *added)):
            # Position 0 may be a hundred times larger than the rest and would hide their misfit.
            parts = [part[:, 1:].double() for part in (before, *added)]
            scale = torch.stack([part.norm() for part in parts]).sum()
            misfit = float((after[:, 1:].double() - sum(parts)).norm() / scale)
        if not misfit <= ADDITIVE_TOLERANCE[before.dtype]:
            names = " + ".join(["input", *map(repr, halves)])
            raise UserError(
                f"{self.name}: block {layer} of {type(self.model).__name__} is not {names} (misfit "
                f"{misfit:.1%}). Set model.attn_path and model.mlp_path to the modules whose "
                "outputs are added, or use resid_post."
            )

    def probe(self, n_rows: int = 1) -> Tensor:
        """Return a few token ids for checks of the model; the rows differ in their last token."""
        middle = self.model.get_input_embeddings().num_embeddings // 2  # no special tokens there
        token_ids = middle + torch.arange(N_PROBE_TOKENS, device=self.model.device)
        rows = token_ids[: self.max_context].repeat(n_rows, 1)
        rows[:, -1] -= torch.arange(n_rows, device=rows.device)
        return rows

    def check_runs(self) -> None:
        """Raise UserError unless the model runs on tokens alone and no token sees a later one."""
        name, n_rows = type(self.model).__name__, 2
        blocks = [self.block(layer) for layer in range(self.n_layers)]
        watched = {str(layer): block for layer, block in enumerate(blocks)}
        with torch.no_grad():
            try:
                _ = self.skips_logits  # asked here, where no hook is set
                seen = self.capture(watched, blocks[-1], self.probe(n_rows), None, stop=False)
                hidden = first(list(seen.values())[-1])
            except UserError:
                raise
            except Exception as error:  # of any model that there is
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise UserError(
                    f"{self.name}: a {name} does not run on the tokens of a text alone, as a "
                    f"causal language model does ({type(error).__name__}: {reason[:200]})"
                ) from error
        shape = (n_rows, self.probe().shape[1])
        if not isinstance(hidden, Tensor) or hidden.dim() != 3 or hidden.shape[:2] != shape:
            raise UserError(
                f"{self.name}: the blocks of a {name} hand on {_shape(hidden)}, not one vector for "
                "each token ([batch, pos, d_model]): set model.block_path to blocks that do"
            )
        before = hidden[:, :-1].double()
        if float((before[0] - before[1]).norm()) > ADDITIVE_TOLERANCE[hidden.dtype] * before.norm():
            raise UserError(
                f"{self.name}: in this {name} a token sees those after it, so it is no causal "
                "language model: set is_decoder to true in its config.json if it is meant to be one"
            )


def _shape(hidden: Any) -> str:
    return f"shape {list(hidden.shape)}" if isinstance(hidden, Tensor) else type(hidden).__name__


def _editing(change: Callable[[Tensor], Tensor], n_rows: int) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        before = hidden_in(output, n_rows)
        after = change(before)
        if after.shape != before.shape:
            raise ValueError(f"an edit must keep the shape {tuple(before.shape)}: {after.shape}")
        # A copy: a block may add to a half in place, and the edit may be used again.
        return copied(with_first(output, after.to(before.dtype)))

    return hook


def _keeping(seen: dict[str, Any], name: str, *, stop: bool) -> Callable[..., None]:
    def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if name == "block":
            seen["block.input"] = args[0] if args else kwargs["hidden_states"]
            seen[name] = output
        else:  # a copy: a block may add to a half in place (Falcon)
            seen[name] = copied(output)
        if stop:
            raise _Stop

    return hook


def n_cached(cache: Any) -> int:
    """Return the number of positions that a transformers cache holds, in any of its blocks."""
    return max((layer.get_seq_length() for layer in cache.layers), default=0)


def _new_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()
