"""Sparse autoencoders for a notebook: an SAE together with the place it belongs to."""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

from torch import nn

from gradsae.errors import UserError
from gradsae.lm.sites import Site, parse_site
from gradsae.sae.dictionary import Dictionary
from gradsae.sae.foreign import adopt
from gradsae.sae.formats import load as formats
from gradsae.storage.files import expanded


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedSAE:
    """An SAE, and where its activations come from as far as that is known."""

    sae: Dictionary
    name: str
    """What to call it in tables."""
    site: Site | None = None
    model: str | None = None
    """Language model it was trained on, as its files write it."""
    curve: dict[str, list[Any]] = field(default_factory=dict)
    """Of an SAE trained here: `step` and the parts of the loss."""
    seconds: float | None = None
    """Of an SAE trained here: time of the training."""

    @property
    def d_in(self) -> int:
        """Width of an activation."""
        return self.sae.d_in

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.sae.d_sae

    def save(self, folder: str | Path) -> Path:
        """Write the SAE into a folder that `load_sae` reads: `sae.safetensors` and `sae.json`."""
        place = {"model": self.model, "site": str(self.site)} if self.site else None
        self.sae.save(Path(folder), {"place": place} if place else {})
        return Path(folder)


def load_sae(
    sae: Any,
    *,
    site: str | None = None,
    subfolder: str = "",
    revision: str | None = None,
    device: str | None = None,
) -> PlacedSAE:
    """Load a sparse autoencoder, or take over one that is in memory.

    Args:
        sae: One of
            a folder in the format of this project, Gemma Scope, SAELens, dictionary_learning or
            sparsify: the files tell which;
            a hub id ("owner/name"), or one with the folder inside it
            ("google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82");
            an SAE object of this project or of sae-lens, or any torch module with `encode(x)`,
            `decode(codes)` and a direction for each latent (`W_dec` or `decoder.weight`).
        site: Where it belongs in its model, for example "resid_post.15" (the residual stream
            after block 15), "mlp_out.3" or "attn_out.3". By default as its files say.
        subfolder: Folder inside a hub repository.
        revision: Branch, tag or commit on the hub.
        device: Where to put the weights; by default they stay where they are (files: on the CPU).

    Returns:
        The SAE with its place. It maps raw activations to raw activations: a normalisation that
        it was trained with is part of it.

    Raises:
        UserError: Nothing is there, its format is unknown, or it does something that this project's
            SAEs cannot do.

    Example:
        >>> sae = gradsae.load_sae("google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82")
        >>> sae.site, sae.d_sae
        (Site(kind='resid_post', layer=12), 16384)
    """
    if isinstance(sae, PlacedSAE):
        placed = sae
    elif isinstance(sae, str | Path):
        placed = _from_files(str(sae), subfolder, revision)
    else:
        placed = _from_memory(sae)
    if site is not None:
        placed = replace(placed, site=parse_site(site))
    if device is not None:
        placed.sae.to(device)
    return placed


def _from_files(text: str, subfolder: str, revision: str | None) -> PlacedSAE:
    path = expanded(text)
    if not path.is_dir():
        owner, _, rest = text.partition("/")
        repository, _, below = rest.partition("/")
        if not repository or owner in ("", ".", "..", "~"):
            raise UserError(
                f"there is no folder {text} to load an SAE from; a hub repository reads owner/name "
                "or owner/name/folder/inside"
            )
        path = formats.fetch(f"{owner}/{repository}", below or subfolder, revision)
    sae, place = formats.load(path)
    site = None
    if place.kind in ("resid_post", "mlp_out", "attn_out") and place.layer is not None:
        site = parse_site(f"{place.kind}.{place.layer}")
    return PlacedSAE(sae=sae, name=path.name, site=site, model=place.model)


def _from_memory(sae: Any) -> PlacedSAE:
    if isinstance(sae, Dictionary):
        return PlacedSAE(sae=sae, name=sae.architecture()["gate"] or type(sae).__name__)
    if not isinstance(sae, nn.Module):
        raise UserError(
            f"an SAE must be a folder, a hub id, or a torch module with encode and decode, got a "
            f"{type(sae).__module__}.{type(sae).__qualname__}"
        )
    if type(sae).__module__.partition(".")[0] == "sae_lens":
        with suppress(UserError):  # an architecture without a counterpart is taken as it is
            return _from_saelens_object(sae)
    return PlacedSAE(sae=adopt(sae), name=type(sae).__name__)


def _from_saelens_object(sae: Any) -> PlacedSAE:
    """Return an sae-lens object as ours, by way of the files that it writes of itself."""
    with TemporaryDirectory() as work:
        sae.save_model(work)
        placed = _from_files(work, "", None)
    placed.sae.to(next(iter(sae.parameters())).device)
    return replace(placed, name=type(sae).__name__)
