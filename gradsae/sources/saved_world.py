"""A world saved by sae-lens (`SyntheticModel.save`) or by `gradsae.sources.saelens_world.save`."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.about import About
from gradsae.interfaces import HeldOut, KnownSource
from gradsae.sources.saelens_world import CONFIG, files, load
from gradsae.sources.streams import DrawnStream
from gradsae.sources.world.parts import World
from gradsae.sources.world.sampler import Sampler
from gradsae.storage.cache import sha256_file
from gradsae.storage.files import expanded
from gradsae.storage.sealed import read_object

VERSION = 1


@final
@dataclass(frozen=True, kw_only=True)
class SavedWorld(KnownSource):
    """The law of a saved world, known by the content of its files and not by where they lie."""

    name: ClassVar[str] = "saved_world"

    folder: str
    """Holds synthetic_model_config.json, synthetic_model.safetensors and hierarchy.json."""

    @property
    def about(self) -> About:
        return About(label="saved world")

    @property
    def d_in(self) -> int:
        return self.world().directions.shape[1]

    def stream(self, batch_size: int, seed: int, device: torch.device) -> DrawnStream:
        return self._sampler().stream(batch_size, seed, device)

    def held_out(self, n: int, seed: int) -> HeldOut:
        return self._sampler().held_out(n, seed)

    def features(self) -> Float[Tensor, "n_features d_in"]:
        return self.world().directions

    def rates(self) -> Float[Tensor, " n_features"]:
        """Exact for features without a parent; see `gradsae.sources.world.marginals` for others."""
        return self._sampler().rates

    def edges(self) -> Int[Tensor, "n_edges 2"]:
        return self.world().trees.edges()

    def offset(self) -> Float[Tensor, " d_in"]:
        return self.world().bias

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "version": VERSION, "sha256": self._sha256()}

    def provenance(self) -> dict[str, Any]:
        """Return the folder's name and the law in its config, which readers name the world by."""
        folder = self._path()
        law = read_object(folder / CONFIG)
        return {"kind": "synthetic", "folder": Path(self.folder).name, "law": law}

    def world(self) -> World:
        """Return the tensors of this world; callers must not write to them."""
        return self._sampler().world

    def _sha256(self) -> str:
        return sha256_file(*files(self._path()))

    def _path(self) -> Path:
        return expanded(self.folder)

    def _sampler(self) -> Sampler:
        return _sampler(self._path(), self._sha256())


@lru_cache(maxsize=2)
def _sampler(folder: Path, sha256: str) -> Sampler:
    return Sampler(load(folder))
