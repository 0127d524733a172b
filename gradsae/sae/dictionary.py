"""The surface of an SAE of any kind: all that tasks, metrics and the training loop use of one.

`gradsae.sae.model.SAE` has a linear encoder with a gate and the fast kernels.
`gradsae.sae.pursuit` encodes by matching pursuit. `gradsae.sae.foreign` holds a module of another
library. A method may bring a class of its own: see `Dictionary`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsae import checks
from gradsae.errors import UserError
from gradsae.sae import kernels
from gradsae.sae.codes import Codes, DenseCodes, SparseCodes
from gradsae.sae.directions import random_rotation
from gradsae.sae.kernels.gates.gate import Gate
from gradsae.sae.kernels.precision import Precision
from gradsae.sae.normalise import Mode, Normaliser
from gradsae.storage.files import make_folder, replacing, write_whole
from gradsae.storage.sealed import sealed
from gradsae.storage.tensors import save_tensors

FORMAT = 1
"""Version of the checkpoint folder: `sae.safetensors` and `sae.json`."""


@final
@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward pass. Quantities ending in `_in` are in the SAE's own, normalised units."""

    x_in: Float[Tensor, "batch d_in"]
    codes: Codes
    """Values are in normalised units, before the output scale."""
    pre: Codes
    """Pre-activations of the stored entries; the codes themselves where an encoder has none."""
    scale: Float[Tensor, "batch 1"]
    """Raw units per normalised unit."""
    normaliser: Normaliser
    decode: Callable[[], Float[Tensor, "batch d_in"]] = field(repr=False)
    """Decodes `codes` with the weights that the SAE then has."""
    precision: Precision = "fp32"
    """In which the pass was computed."""
    early: Sequence[Codes] = ()
    """Codes before each step by which the encoder refined them."""

    @cached_property
    def recon_in(self) -> Float[Tensor, "batch d_in"]:
        """Reconstruction, computed at first use, because not every loss needs it."""
        return self.decode()

    @property
    def recon(self) -> Float[Tensor, "batch d_in"]:
        """Reconstruction in raw units."""
        return self.normaliser.undo(self.recon_in, self.scale)


class Reading(NamedTuple):
    """A linear encoder at work on rows: pre-activations without bias are x_in @ W.mT."""

    x_in: Float[Tensor, "batch d_in"]
    W: Float[Tensor, "d_sae d_in"]


class Dictionary(nn.Module, ABC):
    """An SAE of any kind: an encoder, a decoder, and a direction for each latent.

    A kind of your own defines `encode` and `decoder`, and `decode` where the reconstruction is
    not the codes times the decoder. Then every task measures it, and `fit` trains it if its
    method has a loss. What it learns are parameters or buffers, since these are saved. A method
    may register buffers of its own (names starting with `state_`); they are saved, too.
    """

    def __init__(self, d_in: int, d_sae: int, *, most_open: int | None = None) -> None:
        super().__init__()
        checks.whole("d_in", d_in, 1)
        checks.whole("d_sae", d_sae, 1)
        self.d_in = d_in
        """Width of an activation."""
        self.d_sae = d_sae
        """Number of latents."""
        self.most_open = most_open
        """Most latents that are ever open on one row, where the encoder sets a limit."""

    @abstractmethod
    def encode(
        self, x: Float[Tensor, "batch d_in"]
    ) -> Float[Tensor, "batch d_sae"] | SparseCodes | DenseCodes:
        """Return the codes of raw activations: a matrix, or `SparseCodes`; none is negative."""

    @abstractmethod
    def decoder(self) -> Float[Tensor, "d_sae d_in"]:
        """Return the direction that one unit of each latent writes."""

    def decode(self, codes: Codes) -> Float[Tensor, "batch d_in"]:
        """Return the reconstruction: codes @ decoder, to which an override may add a constant."""
        return kernels.decode(codes, self.decoder())

    def forward(
        self,
        x: Float[Tensor, "batch d_in"],
        precision: Precision = "fp32",
        gate: Gate | None = None,
    ) -> Pass:
        """Encode raw activations; the pass decodes them when its reconstruction is first used."""
        if precision != "fp32" or gate is not None:
            raise UserError(
                f"{type(self).__name__} has an encoder of its own, which computes in fp32 and "
                f"takes no other gate; got precision={precision} (set fit.precision=fp32)"
            )
        codes = self.codes(x)
        with_grad = torch.is_grad_enabled()

        def decode() -> Float[Tensor, "batch d_in"]:
            with torch.set_grad_enabled(with_grad):
                return self.decode(codes)

        return Pass(
            x_in=x,
            codes=codes,
            pre=codes,
            scale=x.new_ones(len(x), 1),
            normaliser=Normaliser(mode="none", mean=torch.zeros_like(x[0]), scale=x.new_ones(())),
            decode=decode,
        )

    def codes(self, x: Float[Tensor, "batch d_in"]) -> Codes:
        """Return the codes of raw activations; outside of training, refuse negative ones.

        A latent is open where its code is above zero, so a negative code would go unseen.
        """
        encoded = self.encode(x)
        codes = DenseCodes(values=encoded) if isinstance(encoded, Tensor) else encoded
        if not torch.is_grad_enabled() and bool((codes.values < 0).any()):
            raise UserError(
                f"{type(self).__name__}.encode returned negative codes; every code must be 0 or "
                "more (write a latent that can be negative as two, with opposite directions)"
            )
        return codes

    @property
    def device(self) -> torch.device:
        return self._some_weight().device

    @property
    def dtype(self) -> torch.dtype:
        return self._some_weight().dtype

    def _some_weight(self) -> Tensor:
        weights = (*self.parameters(), *(b for b in self.buffers() if b.is_floating_point()))
        return next(iter(weights), torch.zeros(()))

    def row_scale(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch 1"]:
        """Return the raw units per unit of a code for each row; 1 where codes are in raw units."""
        return x.new_ones(len(x), 1)

    def inside(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """Return rows in the units of the codes, less what is decoded where no latent is open."""
        return x - self.decode(DenseCodes(values=x.new_zeros(1, self.d_sae))).detach()

    def reading(self, x: Float[Tensor, "batch d_in"]) -> Reading | None:
        """Return what a linear encoder multiplies; None for an encoder of another kind."""
        return None

    @torch.no_grad()
    def chance(self, generator: torch.Generator) -> "Dictionary":
        """Return the chance-level control: the same SAE, but its directions drawn at random.

        For an encoder of any kind that is a rotation of all directions and of the activations
        that it sees; angles between latents stay.
        """
        return Rotated(self, random_rotation(self.d_in, generator))

    def architecture(self) -> dict[str, Any]:
        """Return what `sae.json` says of the kind; {"gate": None} stands for a kind of its own,
        which its method rebuilds (`Method.blank`)."""
        return {"d_in": self.d_in, "d_sae": self.d_sae, "gate": None}

    def save(self, folder: Path, extra: dict[str, Any]) -> None:
        """Write `sae.safetensors` and `sae.json` (architecture and `extra`) into `folder`.

        Both hold a checksum, which `gradsae.sae.model.load` compares.
        """
        make_folder(folder)
        with replacing(folder / "sae.safetensors") as fresh:
            save_tensors(self.state_dict(), fresh)
        meta = {"format": FORMAT, "architecture": self.architecture(), "extra": extra}
        write_whole(folder / "sae.json", json.dumps(sealed(meta), indent=1))


@final
class Rotated(Dictionary):
    """An SAE whose directions are rotated: it encodes x Q and decodes to (codes D) Q^T."""

    def __init__(self, inner: Dictionary, Q: Float[Tensor, "d_in d_in"]) -> None:
        super().__init__(inner.d_in, inner.d_sae, most_open=inner.most_open)
        self.inner = inner
        self.Q: Tensor
        self.register_buffer("Q", Q.to(inner.device, inner.dtype))

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Codes:
        return self.inner.codes(x @ self.Q)

    def decoder(self) -> Float[Tensor, "d_sae d_in"]:
        return self.inner.decoder() @ self.Q.mT

    def decode(self, codes: Codes) -> Float[Tensor, "batch d_in"]:
        return self.inner.decode(codes) @ self.Q.mT


class Normalised(Dictionary):
    """An SAE that normalises its input and writes the reconstruction back in raw units."""

    b_dec: nn.Parameter
    mean: Tensor
    scale: Tensor

    def __init__(self, normaliser: Normaliser, d_sae: int, most_open: int | None) -> None:
        super().__init__(len(normaliser.mean), d_sae, most_open=most_open)
        self.mode: Mode = normaliser.mode
        self.register_buffer("mean", normaliser.mean)
        self.register_buffer("scale", normaliser.scale)

    @property
    def normaliser(self) -> Normaliser:
        return Normaliser(mode=self.mode, mean=self.mean, scale=self.scale)

    def set_normaliser(self, normaliser: Normaliser) -> None:
        """Take over the constants of a fitted normaliser of this SAE's mode."""
        self.mean.copy_(normaliser.mean)
        self.scale.copy_(normaliser.scale)

    @abstractmethod
    def encode_in(
        self,
        x_in: Float[Tensor, "batch d_in"],
        precision: Precision = "fp32",
        gate: Gate | None = None,
    ) -> kernels.Encoded:
        """Return codes and pre-activations of activations that are already normalised.

        `gate` stands in for the SAE's own in training steps (see `Trainer.gate`).
        """

    @abstractmethod
    def decode_in(self, codes: Codes, precision: Precision = "fp32") -> Float[Tensor, "batch d_in"]:
        """Return the reconstruction in normalised units."""

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Codes:
        return self.encode_in(self.normaliser.apply(x).x).codes

    def codes(self, x: Float[Tensor, "batch d_in"]) -> Codes:
        return self.encode(x)  # a gate's codes are never negative

    def decode(self, codes: Codes) -> Float[Tensor, "batch d_in"]:
        """Return the reconstruction in raw units, where the scale is the same for all rows."""
        if self.mode == "token":
            raise UserError(
                "with normalise=token each row has a scale of its own, which the codes do not "
                "hold: take the reconstruction of a pass, sae(x).recon"
            )
        recon = self.decode_in(codes)
        return self.normaliser.undo(recon, self.scale.expand(len(recon), 1))

    def forward(
        self,
        x: Float[Tensor, "batch d_in"],
        precision: Precision = "fp32",
        gate: Gate | None = None,
    ) -> Pass:
        normaliser = self.normaliser
        x_in, scale = normaliser.apply(x)
        codes, pre, early = self.encode_in(x_in, precision, gate)
        with_grad = torch.is_grad_enabled()

        def decode() -> Float[Tensor, "batch d_in"]:
            with torch.set_grad_enabled(with_grad):
                return self.decode_in(codes, precision)

        return Pass(
            x_in=x_in,
            codes=codes,
            pre=pre,
            scale=scale,
            normaliser=normaliser,
            decode=decode,
            precision=precision,
            early=early,
        )

    def row_scale(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch 1"]:
        return self.normaliser.apply(x).scale

    def inside(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        return self.normaliser.apply(x).x - self.b_dec.detach()


def fresh_normaliser(mode: Mode, d_in: int) -> Normaliser:
    """Return a normaliser that changes nothing yet: its constants are loaded or fitted later."""
    return Normaliser(mode=mode, mean=torch.zeros(d_in), scale=torch.ones(()))
