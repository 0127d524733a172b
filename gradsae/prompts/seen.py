"""One prompt seen through an SAE at one hook site: what influence and steering edit.

The edit is applied as a difference to the model's own activation,

    activation(edited) = clean + (edited - codes) * scale @ directions,

so the SAE's reconstruction error is taken from the clean pass and held fixed, an edit that changes
nothing leaves the logits bit-equal, and the encoder plays no part in any gradient.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae.errors import UserError
from gradsae.interfaces import ModelSource
from gradsae.lm.attention import Heads
from gradsae.lm.backward_rules import Rules
from gradsae.lm.key_values import Past
from gradsae.lm.model import LM
from gradsae.lm.norms import Reader
from gradsae.lm.rerun import Suffix
from gradsae.lm.sites import Site
from gradsae.sae.codes import DenseCodes, from_dense
from gradsae.sae.dictionary import Dictionary


class NoActiveLatentError(UserError):
    """Nothing to edit: no latent is open on this prompt."""


@runtime_checkable
class Tail(Protocol):
    """The model after the site, for one prompt: `gradsae.lm.rerun.Suffix`, or a plain function."""

    @property
    def clean(self) -> Float[Tensor, "pos d_in"]:
        """The site's activation in the unedited pass."""
        ...

    @property
    def fraction(self) -> float:
        """Share of the whole model that `logits` runs per row, in [0, 1]."""
        ...

    def begin(self, start: int) -> int:
        """Return where a run of rows that are clean before `start` begins; cost counts from it."""
        ...

    def logits(
        self,
        activation: Float[Tensor, "batch pos d_in"],
        positions: Sequence[int] | None = None,
        *,
        start: int = 0,
    ) -> Float[Tensor, "batch n_positions vocab"]:
        """Logits with the site's activation replaced; differentiable.

        Every row must be clean before `start`, and `positions` not be before it.
        """
        ...


@runtime_checkable
class OpenTail(Tail, Protocol):
    """A tail whose inside can be reached, as some estimators must: `gradsae.lm.rerun.Suffix`."""

    @property
    def later_layers(self) -> Sequence[int]:
        """Blocks after the site."""
        ...

    def backward(self, rules: Rules) -> AbstractContextManager[None]:
        """Let gradients through the later blocks follow other rules for a while."""
        ...

    def readers(self) -> AbstractContextManager[list[Reader]]:
        """Collect the norms that read the stream after the site, from one run of a while."""
        ...

    def lens(self, directions: Float[Tensor, "n d_in"]) -> Float[Tensor, "n vocab"]:
        """Logits of each direction alone in the residual stream."""
        ...


@runtime_checkable
class PartTail(Tail, Protocol):
    """A tail that can be run part of the way: `gradsae.lm.rerun.Suffix`."""

    @property
    def later_layers(self) -> Sequence[int]:
        """Blocks after the site."""
        ...

    @property
    def n_layers(self) -> int:
        """Blocks of the whole model."""
        ...

    def tap(self, layer: int | None) -> AbstractContextManager[list[Tensor]]:
        """Collect the stream after a later block from each run of a while; nothing if None."""
        ...

    def share_to(self, layer: int) -> float:
        """Share of the whole model that `advance` to this block runs per row, in [0, 1]."""
        ...

    def advance(
        self, activation: Float[Tensor, "batch pos d_in"], layer: int, *, start: int = 0
    ) -> Float[Tensor, "batch left d_in"]:
        """The stream after a later block, from `start` (or `begin(start)`) on; see `logits`."""
        ...


@runtime_checkable
class ReadTail(PartTail, Protocol):
    """A tail in which it is seen what positions read of each other: `gradsae.lm.rerun.Suffix`."""

    def attention(self) -> AbstractContextManager[dict[int, Heads]]:
        """Collect the attention of the blocks after the site in a run of a while, by block."""
        ...

    def alone(
        self, activation: Float[Tensor, "batch d_in"], at: int, layer: int
    ) -> tuple[Past, Float[Tensor, "batch d_in"]] | None:
        """What one position leaves in the blocks up to a later one, given its activation.

        Its keys and values there, and its stream after that block. None where the model keeps none.
        """
        ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SeenPrompt:
    """A prompt, its active latents, and a way to run the model from edited codes on.

    `active` counts the distinct latents that are open at one position or more.
    """

    token_ids: Int[Tensor, " pos"]
    suffix: Tail
    latents: Int[Tensor, " active"]
    """Latent number of each column of `codes`, ascending."""
    codes: Float[Tensor, "pos active"]
    """Values in the SAE's units; zero on positions the SAE never sees (special, outlier)."""
    directions: Float[Tensor, "active d_in"]
    """What one unit of a code writes, before `scale`."""
    scale: Float[Tensor, "pos 1"]
    """Raw units per SAE unit at each position."""

    @property
    def clean(self) -> Float[Tensor, "pos d_in"]:
        """The model's own activation at the site, in the codes' dtype (float32)."""
        return self.suffix.clean.to(self.codes.dtype)

    @property
    def n_active(self) -> int:
        return len(self.latents)

    def first_open(self, columns: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """Return the first position at which each latent is open."""
        return (self.codes[:, columns] != 0).int().argmax(0)

    def activation(self, codes: Float[Tensor, "*batch pos active"]) -> Tensor:
        """Return the site's activation ([*batch, pos, d_in], raw units) under edited codes."""
        return self.clean + ((codes - self.codes) * self.scale) @ self.directions

    def without(self, columns: Int[Tensor, " batch"]) -> Float[Tensor, "batch pos d_in"]:
        """Return one activation per column: that latent switched off at every position."""
        gone = (self.codes * self.scale).mT[columns]
        return self.clean - gone[:, :, None] * self.directions[columns][:, None, :]


def see(
    lm: LM,
    site: Site,
    sae: Dictionary,
    token_ids: Int[Tensor, " pos"],
    dropped: Bool[Tensor, " pos"],
) -> SeenPrompt:
    """Run the model up to the site and read the prompt's codes.

    `dropped` marks positions whose codes are left out (all of their activation is error term).
    Raises UserError if the SAE was made for another width, NoActiveLatentError if no latent does.
    """
    return _seen(lm, site, sae, lm.suffix(site, _row(lm, token_ids)), dropped)


def see_from(source: ModelSource, sae: Dictionary, token_ids: Int[Tensor, " pos"]) -> SeenPrompt:
    """Like `see`, at the site of a source and leaving out the positions that it never shows."""
    lm, site = source.lm(), source.site()
    suffix = lm.suffix(site, _row(lm, token_ids))
    dropped = source.dropped(suffix.token_ids, suffix.clean[None])[0]
    return _seen(lm, site, sae, suffix, dropped)


def check_weights(sae: Dictionary) -> None:
    """Raise UserError if a weight is not finite: a gate would pass over such latents in silence."""
    for name, weight in sae.named_parameters():
        n_bad = int((~weight.isfinite()).sum())
        if n_bad:
            raise UserError(f"the SAE's {name} has {n_bad} entries that are not finite")


def _row(lm: LM, token_ids: Int[Tensor, " pos"]) -> Int[Tensor, "1 pos"]:
    return token_ids[None].to(lm.device)


@torch.no_grad()
def _seen(
    lm: LM, site: Site, sae: Dictionary, suffix: Suffix, dropped: Bool[Tensor, " pos"]
) -> SeenPrompt:
    clean = suffix.clean.float()
    n_pos, d_site = clean.shape
    if sae.d_in != d_site:
        raise UserError(f"the SAE has d_in={sae.d_in}, but {site} of {lm.name} has {d_site}")
    out = sae(clean)
    codes = from_dense(out.codes.values) if isinstance(out.codes, DenseCodes) else out.codes
    kept = (codes.values > 0) & ~dropped[codes.rows]
    latents, columns = codes.latents[kept].unique(return_inverse=True)
    if len(latents) == 0:
        raise NoActiveLatentError(f"no latent fires on this prompt of {n_pos} tokens at {site}")
    active = clean.new_zeros(n_pos, len(latents))
    active[codes.rows[kept], columns] = codes.values[kept]
    return SeenPrompt(
        token_ids=suffix.token_ids[0],
        suffix=suffix,
        latents=latents,
        codes=active,
        directions=sae.decoder().detach()[latents],
        scale=out.scale,
    )
