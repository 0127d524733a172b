"""Controls: untrained dictionaries, measured like trained SAEs."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import HIDDEN, LATER, About
from gradsae.interfaces import Biased, KnownSource, Method, Source
from gradsae.sae.dictionary import Dictionary
from gradsae.sae.directions import random_directions
from gradsae.sae.kernels.gates.topk import TopKGate
from gradsae.sae.model import SAE, Architecture
from gradsae.sae.pursuit import PursuitCoder
from gradsae.stats.ica import fast_ica

NAMES = {"random": "random", "pca": "pca", "ica": "ica", "features": "ceiling"}


ABOUT = {
    "random": About(label="random atoms", family="control", member=1, is_control=True),
    "pca": About(label="PCA", family="control", member=2, is_control=True),
    "ica": About(label="ICA", family="control", member=3, is_control=True),
    "ceiling_linear": About(
        label="true features, TopK's encoder",
        family="control",
        member=4,
        is_control=True,
        needs_truth=True,
    ),
    "ceiling": About(
        label="true features, pursuit",
        family="ceiling",
        member=0,
        is_control=True,
        needs_truth=True,
    ),
}
"""What each control says of itself, by its name."""


class Atoms(NamedTuple):
    encoder: Float[Tensor, "atoms d_in"]
    decoder: Float[Tensor, "atoms d_in"]
    """Of norm 1."""
    centre: Float[Tensor, " d_in"]


@final
@dataclass(frozen=True, kw_only=True)
class Control(Method[Dictionary]):
    """An SAE with given directions. No step is taken: its only cost is in `build`.

    atoms=random: unit directions from the sphere. pca, ica: components of the sample, each with its
    negative (codes are not negative), at most 2 d_in of them, the largest first. features: the
    true ones of a source that knows them, all of them; with encoder=pursuit the ceiling.
    b_dec is the mean of the sample; with atoms=features the constant that the source adds to every
    row, if it adds one. What a method starts from is `Untrained`.
    """

    atoms: Literal["random", "pca", "ica", "features"]
    d_sae: int
    """Most atoms; with atoms=features there are as many as features, but see `only_frequent`."""
    k: int
    """Most open latents of a row."""
    encoder: Literal["linear", "pursuit"] = "linear"
    """linear: the k largest projections (ica: unmixed signals). pursuit: see
    `gradsae.sae.kernels.pursuit`."""
    tolerance: float = 0.01
    """Share of a row's norm that a pursuit may leave."""
    centre: bool = True
    """Set b_dec as said above; else it is zero."""
    only_frequent: bool = field(default=False, metadata=LATER)
    """With atoms=features: only the `d_sae` most frequent of them, the most that so many latents
    can find."""
    truth: KnownSource | None = field(default=None, metadata=HIDDEN, repr=False)

    def __post_init__(self) -> None:
        checks.one_of("atoms", self.atoms, tuple(NAMES))
        checks.one_of("encoder", self.encoder, ("linear", "pursuit"))
        checks.whole("d_sae", self.d_sae, 1)
        checks.whole("k", self.k, 1)
        checks.share("tolerance", self.tolerance)
        checks.flag("centre", self.centre)
        checks.flag("only_frequent", self.only_frequent)

    @property
    def name(self) -> str:
        linear = self.atoms == "features" and self.encoder == "linear"
        return NAMES[self.atoms] + "_linear" * linear

    @property
    def about(self) -> About:
        about = ABOUT[self.name]
        if not self.only_frequent:
            return about
        return replace(about, label=about.label.replace("true", "frequent"))

    @property
    def needs_truth(self) -> bool:
        return self.atoms == "features"

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> Dictionary:
        atoms = self._atoms(sample, generator)
        sae = self._pursuit(atoms) if self.encoder == "pursuit" else self._linear(atoms)
        if self.centre:
            with torch.no_grad():
                sae.b_dec.copy_(atoms.centre)
        return sae.requires_grad_(False)

    @torch.no_grad()
    def _linear(self, atoms: Atoms) -> SAE:
        d_sae, d_in = atoms.decoder.shape
        arch = Architecture(d_in=d_in, d_sae=d_sae, tied=self.atoms != "ica")
        sae = SAE(arch, TopKGate(k=min(self.k, d_sae)))
        sae.W_enc.copy_(atoms.encoder)
        if sae.W_dec is not None:
            sae.W_dec.copy_(atoms.decoder)
        return sae

    @torch.no_grad()
    def _pursuit(self, atoms: Atoms) -> PursuitCoder:
        d_sae, d_in = atoms.decoder.shape
        sae = PursuitCoder(d_in, d_sae, min(self.k, d_sae, d_in), self.tolerance)
        sae.W_enc.copy_(atoms.decoder)
        return sae

    def _atoms(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> Atoms:
        if self.atoms == "features":
            if self.truth is None:
                raise ValueError("atoms=features needs a source whose features are known")
            features, no_offset = self.truth.features(), torch.zeros_like(sample[0])
            if self.only_frequent:
                order = self.truth.rates().to(features.device).argsort(descending=True, stable=True)
                features = features[order[: self.d_sae]]
            added = (
                self.truth.offset().to(no_offset) if isinstance(self.truth, Biased) else no_offset
            )
            return Atoms(features, features, added)
        if self.atoms == "pca":
            return principal(sample, self.d_sae)
        if self.atoms == "ica":
            return independent(sample, self.d_sae, generator)
        directions = random_directions(self.d_sae, sample.shape[1], generator)
        return Atoms(directions, directions, sample.mean(0))


@final
@dataclass(frozen=True, kw_only=True)
class Untrained(Method[Dictionary]):
    """What a method builds before its first step, and no step."""

    of: Method[Any]
    d_sae: int
    """That of the method."""

    def __post_init__(self) -> None:
        if self.d_sae != self.of.d_sae:
            raise ValueError(f"d_sae must be that of the method, {self.of.d_sae}, got {self.d_sae}")

    @property
    def name(self) -> str:
        return "untrained"

    def why_not(self, source: Source) -> str | None:
        return self.of.why_not(source)

    def bind(self, source: Source) -> Method[Dictionary]:
        return replace(self, of=self.of.bind(source))

    @property
    def about(self) -> About:
        label = f"untrained {self.of.about.label}"
        return About(label=label, family="control", member=0, is_control=True)

    def build(self, sample: Float[Tensor, "batch d_in"], generator: torch.Generator) -> Dictionary:
        return self.of.build(sample, generator).requires_grad_(False)

    def blank(self, d_in: int) -> Dictionary:
        return self.of.blank(d_in)


def principal(sample: Float[Tensor, "batch d_in"], n: int) -> Atoms:
    """Return principal components and their negatives, by falling variance."""
    centre = sample.mean(0)
    eigenvectors = torch.linalg.eigh((sample - centre).double().T.cov()).eigenvectors
    axes = _both_signs(eigenvectors.mT.flip(0).to(sample))[:n]
    return Atoms(axes, axes, centre)


def independent(sample: Float[Tensor, "batch d_in"], n: int, generator: torch.Generator) -> Atoms:
    """Return independent components and their negatives, by falling variance. A latent's
    pre-activation is how far the row lies along its atom once unmixed.
    """
    components = fast_ica(sample, generator)
    norm = components.mixing.norm(dim=1, keepdim=True)
    order = norm[:, 0].argsort(descending=True)
    rows = (components.unmixing * norm, components.mixing / norm)
    encoder, decoder = (_both_signs(a[order])[:n].to(sample) for a in rows)
    return Atoms(encoder, decoder, components.centre.to(sample))


def _both_signs(rows: Float[Tensor, "rows d_in"]) -> Float[Tensor, "twice d_in"]:
    return torch.stack([rows, -rows], dim=1).flatten(0, 1)
