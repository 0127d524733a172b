"""One prompt seen through an SAE at one hook site: what influence and steering edit.

The edit is applied as a difference to the model's own activation,

    activation(edited) = clean + (edited - codes) * scale @ directions,

so the SAE's reconstruction error is taken from the clean pass and held fixed, an edit that changes
nothing leaves the logits bit-equal, and the encoder plays no part in any gradient.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae.errors import UserError
from gradsae.lm import LM, Suffix
from gradsae.sae import SAE
from gradsae.sites import Site


@final
@dataclass(frozen=True, kw_only=True)
class SeenPrompt:
    """A prompt, its active latents, and a way to run the model from edited codes on.

    `active` counts the distinct latents that are open at one position or more.
    """

    token_ids: Int[Tensor, " pos"]
    suffix: Suffix
    latents: Int[Tensor, " active"]
    """Latent number of each column of `codes`."""
    codes: Float[Tensor, "pos active"]
    """Values in the SAE's units; zero on positions the SAE never sees (special, outlier)."""
    directions: Float[Tensor, "active d_in"]
    """What one unit of a code writes, before `scale`."""
    scale: Float[Tensor, "pos 1"]
    """Raw units per SAE unit at each position."""

    @property
    def clean(self) -> Float[Tensor, "pos d_in"]:
        """The model's own activation at the site."""
        return self.suffix.clean

    def activation(self, codes: Float[Tensor, "*batch pos active"]) -> Tensor:
        """Return the site's activation ([*batch, pos, d_in], raw units) under edited codes."""
        return self.clean + ((codes - self.codes) * self.scale) @ self.directions

    def without(self, columns: Int[Tensor, " batch"]) -> Float[Tensor, "batch pos d_in"]:
        """Return one activation per column: that latent switched off at every position."""
        gone = (self.codes * self.scale).mT[columns]
        return self.clean - gone[:, :, None] * self.directions[columns][:, None, :]


@torch.no_grad()
def see(
    lm: LM,
    site: Site,
    sae: SAE,
    token_ids: Int[Tensor, " pos"],
    dropped: Bool[Tensor, " pos"],
) -> SeenPrompt:
    """Run the model once and read the prompt's codes.

    `dropped` marks positions whose codes are left out (all of their activation is error term).
    Raises UserError if the SAE was made for another width, or if no latent fires.
    """
    suffix = lm.suffix(site, token_ids)
    d_site = suffix.clean.shape[1]
    if sae.arch.d_in != d_site:
        raise UserError(f"the SAE has d_in={sae.arch.d_in}, but {site} of {lm.name} has {d_site}")
    out = sae(suffix.clean)
    dense = out.codes.to_dense().masked_fill(dropped[:, None], 0.0)
    latents = (dense > 0).any(0).nonzero().squeeze(1)
    if len(latents) == 0:
        raise UserError(f"no latent fires on this prompt of {len(token_ids)} tokens at {site}")
    return SeenPrompt(
        token_ids=token_ids,
        suffix=suffix,
        latents=latents,
        codes=dense[:, latents],
        directions=sae.decoder().detach()[latents],
        scale=out.scale,
    )
