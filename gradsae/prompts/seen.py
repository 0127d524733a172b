"""One prompt seen through an SAE at one hook site: what influence and steering edit.

An edit of the codes changes the model's own activation by a difference:

    activation(edited) = clean + (edited - codes) * scale @ directions

So the SAE's error is that of the clean pass and is held fixed, an edit that changes nothing leaves
the logits bit-equal, and the encoder plays no part in any gradient.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae.errors import UserError
from gradsae.interfaces import ModelSource
from gradsae.lm.model import LM
from gradsae.lm.rerun import Rerun
from gradsae.lm.sites import Site
from gradsae.sae.codes import DenseCodes, from_dense
from gradsae.sae.dictionary import Dictionary


class NoActiveLatentError(UserError):
    """No latent is open on this prompt, so there is nothing to edit."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SeenPrompt:
    """A prompt, its active latents, and a way to run the model from edited codes on.

    In shapes, `active` is the number of latents that are open at one position or more.
    """

    token_ids: Int[Tensor, " pos"]
    rerun: Rerun
    """The model after the site."""
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
        return self.rerun.clean.to(self.codes.dtype)

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
        removed = (self.codes * self.scale).mT[columns]
        return self.clean - removed[:, :, None] * self.directions[columns][:, None, :]


def see(
    lm: LM,
    site: Site,
    sae: Dictionary,
    token_ids: Int[Tensor, " pos"],
    dropped: Bool[Tensor, " pos"],
) -> SeenPrompt:
    """Run the model up to the site and read the prompt's codes.

    `dropped` marks positions whose codes are left out: all of their activation counts as the SAE's
    error. Raises UserError if the SAE was made for another width, NoActiveLatentError if no latent
    is open.
    """
    return _seen(lm, site, sae, lm.rerun(site, _row(lm, token_ids)), dropped)


def see_from(source: ModelSource, sae: Dictionary, token_ids: Int[Tensor, " pos"]) -> SeenPrompt:
    """Like `see`, at the source's site, without the positions that it never shows an SAE."""
    lm, site = source.lm(), source.site()
    rerun = lm.rerun(site, _row(lm, token_ids))
    dropped = source.dropped(rerun.token_ids, rerun.clean[None])[0]
    return _seen(lm, site, sae, rerun, dropped)


def check_weights(sae: Dictionary) -> None:
    """Raise UserError if a weight is not finite. A gate would silently never open such latents."""
    for name, weight in sae.named_parameters():
        n_bad = int((~weight.isfinite()).sum())
        if n_bad:
            raise UserError(f"the SAE's {name} has {n_bad} entries that are not finite")


def _row(lm: LM, token_ids: Int[Tensor, " pos"]) -> Int[Tensor, "1 pos"]:
    return token_ids[None].to(lm.device)


@torch.no_grad()
def _seen(
    lm: LM, site: Site, sae: Dictionary, rerun: Rerun, dropped: Bool[Tensor, " pos"]
) -> SeenPrompt:
    clean = rerun.clean.float()
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
        token_ids=rerun.token_ids[0],
        rerun=rerun,
        latents=latents,
        codes=active,
        directions=sae.decoder().detach()[latents],
        scale=out.scale,
    )
