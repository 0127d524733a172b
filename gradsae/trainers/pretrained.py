"""An SAE that somebody released, loaded from its files.

It is a method without training steps, like a control. Every task measures it as it measures an SAE
that was trained here, and its checkpoint is found by the content of its file.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import HIDDEN, About
from gradsae.errors import UserError
from gradsae.interfaces import Method, ModelSource, Source
from gradsae.lm.sites import Site, parse_site
from gradsae.sae.dictionary import Dictionary
from gradsae.sae.formats import load
from gradsae.sae.formats.released import Place
from gradsae.storage.files import expanded


@final
@dataclass(frozen=True, kw_only=True)
class Pretrained(Method[Dictionary]):
    """Gemma Scope, SAELens, dictionary_learning, sparsify or this project's own checkpoint folder,
    from a folder or a hub repository; the files say which format (`gradsae.sae.formats`)."""

    release: str
    """What it is called, for readers of a record."""
    d_sae: int
    """Its number of latents; another one in the file is an error."""
    site: str | None = None
    """Where in the model it was trained, for example resid_post.9; needed where a language model is
    the source."""
    model: str | None = None
    """Language model that it was trained on, as the release writes it; None: as its files say."""
    folder: str | None = field(default=None, metadata=HIDDEN)
    hub_id: str | None = field(default=None, metadata=HIDDEN)
    subfolder: str = field(default="", metadata=HIDDEN)
    """Inside the hub repository."""
    revision: str | None = field(default=None, metadata=HIDDEN)
    source_model: str | None = field(default=None, metadata=HIDDEN)
    """Language model that the source reads, set by `bind`; None where there is none."""

    def __post_init__(self) -> None:
        checks.whole("d_sae", self.d_sae, 1)
        if (self.folder is None) == (self.hub_id is None):
            raise ValueError(
                f"a pretrained SAE needs folder or hub_id, one of them; got folder={self.folder!r} "
                f"and hub_id={self.hub_id!r}"
            )
        if self.site is not None:
            parse_site(self.site)

    @property
    def name(self) -> str:
        return "pretrained"

    @property
    def about(self) -> About:
        return About(label="pretrained", family="released", member=0)

    def content(self) -> dict[str, Any]:
        return {"sha256": load.content_hash(self._folder())}

    def bind(self, source: Source) -> Method[Dictionary]:
        """Return the method with the name of the language model; UserError for another site."""
        if not isinstance(source, ModelSource):
            return self
        model = source.names()["model"]["name"]
        self.check_place(source.site(), model)
        return replace(self, source_model=model)

    def check_place(self, site: Site, model: str) -> None:
        """Raise UserError unless this SAE was trained at a site of a model; reads no file."""
        if self.site is None:
            raise UserError(
                f"trainer.site must say where {self.release} was trained, got null; the source "
                f"reads {site}"
            )
        if self.site != str(site):
            raise UserError(
                f"{self.release} was trained at site {self.site}, but the source reads {site}; "
                "set trainer.site and source.layer to the same place"
            )
        if self.model is not None and not same_model(self.model, model):
            raise UserError(
                f"{self.release} was trained on model {self.model}, but the source reads {model}"
            )

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> Dictionary:
        folder = self._folder()
        sae, place = load.load(folder)
        self._check_file(place)
        if sae.d_sae != self.d_sae:
            raise UserError(
                f"{folder} holds {sae.d_sae} latents, but trainer.d_sae={self.d_sae}; set "
                f"d_sae={sae.d_sae}"
            )
        if sae.d_in != sample.shape[1]:
            raise UserError(
                f"{folder} was trained on activations of width d_in={sae.d_in}, but the "
                f"source's have {sample.shape[1]}"
            )
        return sae

    def _check_file(self, place: Place) -> None:
        """Compare what the files say of their place with what the config says."""
        if self.site is not None:
            site = parse_site(self.site)
            layer = site.layer if place.layer is None else place.layer
            if (place.kind or site.kind, layer) != (site.kind, site.layer):
                in_file = f"{place.kind or site.kind}.{layer}"
                raise UserError(
                    f"{self.release}: its files say {in_file}, trainer.site={self.site}"
                )
        models = {"trainer.model": self.model, "source.model": self.source_model}
        for name, model in models.items():
            if model and place.model and not same_model(model, place.model):
                raise UserError(
                    f"{self.release}: its files say model {place.model}, {name}={model}"
                )

    def _folder(self) -> Path:
        if self.hub_id is not None:
            return load.fetch(self.hub_id, self.subfolder, self.revision)
        return expanded(self.folder or "")


def same_model(a: str, b: str) -> bool:
    """Return True if two names mean one model: same letters and digits after the owner's name.

    One may have words in front that the other leaves out ("Meta-Llama-3-8B" and "llama3_8b"), but
    none behind: "gemma-2-9b" is not "gemma-2-9b-it".
    """
    bare = [re.sub(r"[^a-z0-9]", "", name.rpartition("/")[2].lower()) for name in (a, b)]
    return bare[0].endswith(bare[1]) or bare[1].endswith(bare[0])
