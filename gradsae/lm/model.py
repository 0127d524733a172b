"""A causal language model as this project uses it: tokens in, activations and logits out.

Activations are read or edited at a `Site`, and the model can be run again from there. The hooks
that do it are set on the shared model, so one LM must not be used from two threads at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gradsae.errors import UserError
from gradsae.lm.decoder import Decoder, Edit
from gradsae.lm.loading import load_parts
from gradsae.lm.rerun import Rerun, run_to
from gradsae.lm.sites import Site, find_layout
from gradsae.lm.spec import LanguageModel
from gradsae.lm.tokens import Tokens

CONTEXT = (
    *("max_position_embeddings", "max_seq_len", "n_positions", "max_target_positions"),
    *("seq_length", "context_length"),
)
"""Names under which configs of transformers say how many tokens fit. Recurrent models say none."""
UNLIMITED = 2**31

Activation = Float[Tensor, "batch pos d_in"]


def load(spec: LanguageModel, device: str | torch.device = "cpu") -> "LM":
    """Fetch if needed, load and wrap a language model: eval mode, frozen, on `device`.

    Raises UserError: cannot be fetched, damaged weights, weights not finite, unknown architecture.
    """
    model, tokenizer = load_parts(spec)
    return wrap(model.to(device), tokenizer, spec)


def wrap(model: nn.Module, tokenizer: Any, spec: LanguageModel) -> "LM":
    """Wrap a transformers causal LM that is already in memory."""
    _cap_scores(model)
    config: Any = model.config
    config = config.get_text_config(decoder=True)
    layout = find_layout(
        model,
        getattr(config, "decoder_layers", config.num_hidden_layers),
        block_path=spec.block_path,
        attn_path=spec.attn_path,
        mlp_path=spec.mlp_path,
    )
    model.eval().requires_grad_(False)
    decoder = Decoder(
        name=spec.name,
        model=model,
        layout=layout,
        n_layers=len(list(model.get_submodule(layout.blocks).children())),
        max_context=_max_context(config),
    )
    decoder.check_runs()
    return LM(spec=spec, model=model, tokenizer=tokenizer, config=config, decoder=decoder)


def _cap_scores(model: Any) -> None:
    """Take transformers' plain attention where `sdpa` would leave out a cap on the scores.

    transformers 4 lets Gemma 2 run so; later versions refuse.
    """
    config = model.config.get_text_config(decoder=True)
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    if capped and config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")


def _max_context(config: Any) -> int:
    """Return the largest number of tokens in one sequence; unlimited where a config names none."""
    given = (getattr(config, name, None) for name in CONTEXT)
    return next((n for n in given if isinstance(n, int) and n > 0), UNLIMITED)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LM:
    """A causal language model with hook sites."""

    spec: LanguageModel
    model: Any
    tokenizer: Any
    config: Any
    """The text decoder's config."""
    decoder: Decoder

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def n_layers(self) -> int:
        return self.decoder.n_layers

    @property
    def d_model(self) -> int:
        return self.config.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_context(self) -> int:
        """Largest number of tokens in one sequence."""
        return self.decoder.max_context

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the activations."""
        return next(self.model.parameters()).dtype

    @property
    def weights_id(self) -> str:
        return self.spec.weights_id()

    @cached_property
    def tokens(self) -> Tokens:
        """Texts and tokens in their place."""
        rows = self.model.get_input_embeddings()
        n_tokens = getattr(rows, "num_embeddings", self.vocab_size)
        return Tokens(name=self.name, tokenizer=self.tokenizer, n_tokens=n_tokens)

    @property
    def prefix_ids(self) -> list[int]:
        """Tokens that the tokenizer puts before every text: Gemma's <bos>, none for SmolLM2."""
        return self.tokens.added.front

    def check_site(self, site: Site) -> None:
        """Raise UserError unless this model has the site."""
        self.decoder.check_site(site)

    def provenance(self) -> dict[str, Any]:
        """Return what a record states about this model, as JSON values."""
        return {**self.spec.provenance(), "architecture": type(self.model).__name__}

    def tokenize(self, text: str | Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Return the token ids of each text; `special` adds all of the tokenizer's own."""
        texts = [text] if isinstance(text, str) else list(text)
        return self.tokens.ids(texts, special=special) if texts else []

    def prompt(self, text: str) -> Int[Tensor, "1 pos"]:
        """Return a prompt's token ids on the device, without special tokens at the end.

        UserError if it is empty or too long.
        """
        ids = self.tokens.opened(text) if text else []
        if not ids:
            raise UserError(f"empty prompt: it needs at least 1 token, got {text!r}")
        if len(ids) > self.max_context:
            raise UserError(
                f"prompt of {len(ids)} tokens is longer than the context of {self.name} "
                f"({self.max_context}): {text[:60]!r}..."
            )
        return torch.tensor([ids], device=self.device)

    def text(
        self,
        token_ids: Int[Tensor, " pos"] | Sequence[int],
        *,
        after: Int[Tensor, " before"] | Sequence[int] = (),
    ) -> str:
        """Return the text of tokens, special ones included, as it reads after others."""
        return self.tokens.text([int(i) for i in token_ids], after=[int(i) for i in after])

    def special_positions(self, token_ids: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Return True at position 0 and at every special token.

        Position 0 carries a norm 130 times the rest in SmolLM2, so no statistic should see it.
        """
        special_ids = [*self.tokenizer.all_special_ids, *self.prefix_ids]
        special = torch.tensor(special_ids, device=token_ids.device)
        mask = torch.isin(token_ids, special)
        mask[:, 0] = True
        return mask

    @torch.no_grad()
    def read(
        self,
        site: Site,
        token_ids: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        *,
        stop: bool = True,
    ) -> Activation:
        """Return the site's activation in the model's dtype. `stop` runs nothing after it."""
        return self.decoder.read(site, token_ids, attention_mask, stop=stop)

    def logits(
        self,
        token_ids: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        *,
        edit: Edit | None = None,
        positions: Sequence[int] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "batch n_positions vocab"]:
        """Return float32 logits at `positions` (negative ones count from the end), or at all.

        An edit that returns its input leaves every bit as it was. Differentiable with respect to
        tensors that the edit uses. `cache` is a transformers cache with the tokens before these;
        the pass adds its own. Raises UserError if a logit is not finite.
        """
        return self.decoder.logits(
            token_ids, attention_mask, edit=edit, positions=positions, cache=cache
        )

    @torch.no_grad()
    def generate(
        self, token_ids: Int[Tensor, "batch pos"], n_new: int
    ) -> Int[Tensor, "batch pos_plus_new"]:
        """Continue greedily by `n_new` tokens, also past an end token; without a cache."""
        for _ in range(n_new):
            last = self.logits(token_ids, positions=[-1])
            token_ids = torch.cat([token_ids, last.argmax(-1)], dim=1)
        return token_ids

    @torch.no_grad()
    def rerun(self, site: Site, token_ids: Int[Tensor, "1 pos"]) -> Rerun:
        """Run one prompt up to the site and keep what reruns from there need.

        Costs (layer + 1) / n_layers of a full forward pass.
        """
        return run_to(self.decoder, site, token_ids)
