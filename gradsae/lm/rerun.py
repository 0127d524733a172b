"""Run the last blocks of a decoder again: the cheap way to see what many edits of one prompt do.

Blocks before the site hand their input on unchanged, and the site's own output is replaced. The
rest of the transformers model (masks, rotary positions, final norm, head) runs as it always does.
Positions before the first edit need no rerun: their keys and values are those of the clean pass.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradsae.errors import UserError
from gradsae.lm.decoder import Decoder
from gradsae.lm.key_values import KeyValues, read_cache
from gradsae.lm.outputs import copied, hidden_in, with_first
from gradsae.lm.sites import Site

REUSE_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest misfit of a rerun on the clean keys and values, relative to the largest logit."""


def run_to(decoder: Decoder, site: Site, token_ids: Int[Tensor, "1 pos"]) -> "Rerun":
    """Run one prompt up to the site and keep what reruns from there need."""
    decoder.check_site(site)
    rerun = _run_to(decoder, site, token_ids)
    if site not in decoder.reruns:
        decoder.reruns.add(site)  # before the check, which runs to the site itself
        try:
            _check_rerun(decoder, site)
        except Exception:
            decoder.reruns.remove(site)
            raise
    return rerun


@torch.no_grad()
def _check_rerun(decoder: Decoder, site: Site) -> None:
    """Raise UserError unless a rerun from the site gives what a whole pass with that edit gives.

    Tried once on a few tokens, so that a block which is put together in another way is refused
    rather than measured wrong.
    """
    token_ids = decoder.probe()
    rerun = _run_to(decoder, site, token_ids)
    edited = (rerun.clean + rerun.clean.flip(0))[None]  # of the size that the model is used to
    whole = decoder.logits(token_ids, None, edit=(site, lambda _: edited), positions=None)
    try:
        with torch.enable_grad():
            again = rerun.logits(edited.requires_grad_())
        misfit = (again.detach() - whole).norm() / (whole - whole.mean()).norm()
    except UserError:
        raise
    except Exception as error:  # of any model that there is
        raise UserError(_no_rerun(decoder, site, f"{type(error).__name__}: {error}")) from error
    if not misfit <= REUSE_TOLERANCE[rerun.clean.dtype]:
        raise UserError(_no_rerun(decoder, site, f"the logits differ by {float(misfit):.1%}"))
    if not again.requires_grad:
        raise UserError(_no_rerun(decoder, site, "the logits have no gradient"))


def _no_rerun(decoder: Decoder, site: Site, reason: str) -> str:
    name = type(decoder.model).__name__
    return (
        f"{decoder.name}: a {name} cannot be run again from {site} ({reason[:200]}). Set "
        "model.block_path, model.attn_path or model.mlp_path to other modules, or take another "
        "site (resid_post)"
    )


def _run_to(decoder: Decoder, site: Site, token_ids: Int[Tensor, "1 pos"]) -> "Rerun":
    layout, block = decoder.layout_of(site.layer), decoder.block(site.layer)
    paths = {"resid_post": "block", "attn_out": layout.attn_out, "mlp_out": layout.mlp_out}
    halves = (layout.attn, layout.attn_out, layout.mlp, layout.mlp_out)
    watched = {path: block.get_submodule(path) for path in halves if path is not None}
    outputs = decoder.capture({**watched, "block": block}, block, token_ids, None, stop=True)
    return Rerun(
        decoder=decoder,
        site=site,
        token_ids=token_ids,
        clean=hidden_in(outputs[paths[site.kind] or ""], 1)[0],
        block_input=outputs["block.input"],
        outputs=outputs,
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Rerun:
    """The model after one site, for one prompt. Many edited activations go through it cheaply."""

    decoder: Decoder
    site: Site
    token_ids: Int[Tensor, "1 pos"]
    clean: Float[Tensor, "pos d_in"]
    """The site's activation in the unedited pass, in the model's dtype."""
    block_input: Float[Tensor, "1 pos d_model"]
    """What the site's block reads in the unedited pass."""
    outputs: dict[str, Any]
    """Unedited outputs of the site's block ("block") and of its halves (by module path)."""

    @property
    def fraction(self) -> float:
        """Cost of `logits` per row in full forward passes: the share of the blocks that is run.

        (n_layers - layer - 1) / n_layers, in [0, 1]. One block more for attn_out, whose block runs
        its MLP again (counted as a whole block). Embedding and unembedding are not counted.
        """
        return len(self.later_blocks) / self.decoder.n_layers

    @property
    def later_blocks(self) -> range:
        """Blocks that a rerun runs. Of attn_out, that includes the MLP of its own block."""
        first_later = self.site.layer + (self.site.kind != "attn_out")
        return range(first_later, self.decoder.n_layers)

    def rerun_start(self, start: int) -> int:
        """Return the first position to rerun if all positions before `start` are unchanged.

        0 where the model's key-value cache cannot be reused, else `start`. The first call may run
        one clean pass of the later blocks.
        """
        return start if start > 0 and self._clean_key_values is not None else 0

    def logits(
        self,
        activation: Float[Tensor, "batch pos d_in"],
        positions: Sequence[int] | None = None,
        *,
        start: int = 0,
    ) -> Float[Tensor, "batch n_positions vocab"]:
        """Return float32 logits at `positions` with the site's activation replaced, row by row.

        Equal to a full pass with that edit, to rounding, and differentiable with respect to
        `activation`. `start` promises that no row differs from `clean` before that position and
        that no logits are read before it; those positions are then not run (see `rerun_start`).
        Raises ValueError for another shape, or where logits are read before `start`.
        """
        start, cache = self.cache_before(start, len(activation))
        return self._logits(activation, positions, start, cache)

    def logits_and_key_values(
        self,
        activation: Float[Tensor, "batch pos d_in"],
        positions: Sequence[int],
        *,
        start: int = 0,
    ) -> tuple[Float[Tensor, "batch n_positions vocab"], KeyValues | None]:
        """Return the logits, and each row's keys and values of the blocks after the site.

        More tokens can be written after those. None for a model whose cache cannot be reused.
        """
        if self._clean_key_values is None:
            return self._logits(activation, positions, 0, None), None
        start, cache = self.cache_before(start, len(activation))
        cache = self.decoder.empty_cache() if cache is None else cache
        logits = self._logits(activation, positions, start, cache)
        return logits, self._read(cache)

    @torch.no_grad()
    def logit_lens(self, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Return the logits of each direction alone in the stream: final norm and head only."""
        last = Site("resid_post", self.decoder.n_layers - 1)
        bare = run_to(self.decoder, last, self.token_ids[:, :1])
        return bare.logits(directions[:, None], [-1])[:, 0]

    def cache_before(self, start: int, n_rows: int) -> tuple[int, Any]:
        """Return where a rerun begins, and a cache of the positions before it (None at 0)."""
        start = self.rerun_start(start)
        if start == 0 or self._clean_key_values is None:
            return 0, None
        return start, self._clean_key_values.cache(start, n_rows)

    @contextmanager
    def from_site(
        self, activation: Float[Tensor, "batch pos d_in"], start: int, stop: int | None = None
    ) -> Iterator[Int[Tensor, "batch n_run"]]:
        """Let the model begin at the site for the length of the block.

        Yields the token ids of the positions from `start` to `stop`, which are the ones to run.
        """
        run = slice(start, stop)
        value = activation[:, run].to(self.block_input.dtype)
        blocks = self.decoder.model.get_submodule(self.decoder.layout.blocks)
        with ExitStack() as stack:
            for block in list(blocks)[: self.site.layer]:
                stack.enter_context(_replaced_forward(block, self._hand_through))
            for module, forward in self._replacements(blocks[self.site.layer], value, run):
                stack.enter_context(_replaced_forward(module, forward))
            yield self.token_ids[:, run].expand(len(value), -1)

    @property
    def can_reuse(self) -> bool:
        """True if clean keys and values can be reused. The first call runs one clean pass."""
        return self._clean_key_values is not None

    def _logits(
        self, activation: Tensor, positions: Sequence[int] | None, start: int, cache: Any
    ) -> Tensor:
        """Return logits of a rerun from `start` on; it adds its keys and values to `cache`."""
        if activation.shape[1:] != self.clean.shape:
            expected = ("batch", *self.clean.shape)
            raise ValueError(f"activation must be {expected}, got {tuple(activation.shape)}")
        if start == 0:
            return self._run(activation, 0, cache, positions)
        n_pos = len(self.clean)
        wanted = range(n_pos) if positions is None else positions
        absolute = [p + n_pos if p < 0 else p for p in wanted]
        if min(absolute) < start:
            raise ValueError(f"logits are read at {min(absolute)}, before start={start}")
        return self._run(activation, start, cache, [p - start for p in absolute])

    def _run(
        self, activation: Tensor, start: int, cache: Any, positions: Sequence[int] | None
    ) -> Tensor:
        """Return logits at positions counted from `start`."""
        with self.from_site(activation, start) as token_ids:
            return self.decoder.forward(token_ids, None, positions, cache)

    @cached_property
    def _clean_key_values(self) -> KeyValues | None:
        """Keys and values of the clean pass; None, with a note, where they cannot be reused."""
        key_values, reason = self._keep_clean()
        if reason:
            self.decoder.note(f"reruns begin at the first position, which takes longer: {reason}")
        return key_values

    @torch.no_grad()
    def _keep_clean(self) -> tuple[KeyValues | None, str]:
        """Return the clean pass's keys and values, or why there are none that can be reused.

        They can be if a run of the last position on them gives the clean logits.
        """
        n_pos = len(self.clean)
        cache = self.decoder.empty_cache()
        if cache is None:
            return None, "the model fills no key-value cache of transformers"
        try:
            whole = self._run(self.clean[None], 0, cache, [-1])
            key_values = self._read(cache)
            if key_values is None:
                return None, "its key-value cache does not hold each position of each block"
            again = self._run(self.clean[None], n_pos - 1, key_values.cache(n_pos - 1, 1), [-1])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            reason = (str(error).splitlines() or [""])[0]
            return None, f"it does not run on keys and values ({type(error).__name__}: {reason})"
        misfit = float((again - whole).abs().max() / whole.abs().max())
        if not misfit <= REUSE_TOLERANCE[self.clean.dtype]:
            return None, f"a run on its cached keys and values differs by {misfit:.1g}"
        return key_values, ""

    def _read(self, cache: Any) -> KeyValues | None:
        """Return the keys and values of the blocks after the site's, from a filled cache."""
        return read_cache(cache, self.site.layer + 1, self.decoder.n_layers, len(self.clean))

    def _hand_through(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for a block before the site: hand the hidden state on."""
        return with_first(self.outputs["block"], args[0] if args else kwargs["hidden_states"])

    def _replacements(
        self, block: nn.Module, value: Tensor, run: slice
    ) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
        """Yield modules of the site's block and the functions that stand in for them.

        Inside the block everything before the site is replayed from the clean pass.
        """
        layout, outputs = self.decoder.layout_of(self.site.layer), self.outputs
        if self.site.kind == "resid_post":
            yield block, _returning(with_first(outputs["block"], value))
            return
        yield block, self._on_clean_input(block, len(value), run)
        replayed = [layout.attn, layout.attn_out]
        edited = layout.attn_out
        if self.site.kind == "mlp_out":
            replayed += [layout.mlp, layout.mlp_out]
            edited = layout.mlp_out
        for path in dict.fromkeys(p for p in replayed if p in outputs):
            clean = hidden_in(outputs[path], 1)
            around = edited is not None and edited.startswith(f"{path}.")
            if around and edited and not torch.equal(clean, hidden_in(outputs[edited], 1)):
                continue  # it adds to the edited module inside it, so it must run
            output = value if around or path == edited else clean[:, run]
            yield block.get_submodule(path), _returning(with_first(outputs[path], output))

    def _on_clean_input(self, block: nn.Module, n_rows: int, run: slice) -> Callable[..., Any]:
        """Return the block's forward with the clean stream as its input."""
        forward = block.forward
        stream = self.block_input[:, run].expand(n_rows, -1, -1)

        def run_on_clean_input(*args: Any, **kwargs: Any) -> Any:
            others = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            return forward(stream, *args[1:], **others)

        return run_on_clean_input


def _returning(value: Any) -> Callable[..., Any]:
    """Return a forward with a fixed answer. A half is copied: blocks may add to it in place."""
    return lambda *args, **kwargs: copied(value)


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace a module's forward for a while. Its hooks, attributes and index stay as they are."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
