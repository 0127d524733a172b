"""The sparse autoencoder: encode, decode, save, load. Every method trains this one class."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsae import checks
from gradsae.errors import UserError
from gradsae.sae import kernels
from gradsae.sae.codes import Codes, DenseCodes, SparseCodes
from gradsae.sae.kernels.gates import (
    Gate,
    GatedGate,
    JumpReLUGate,
    Magnitude,
    PeelGate,
    PursuitGate,
    ThresholdGate,
    TopKGate,
)
from gradsae.sae.kernels.precision import Precision
from gradsae.sae.normalise import MODES, Mode, Normaliser

FORMAT = 1
"""Version of the checkpoint folder: `sae.safetensors` and `sae.json`."""


GateName = Literal["topk", "relu", "jump", "jumprelu", "gated", "pursuit", "peel"]


@final
@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What is needed to rebuild an SAE around saved weights."""

    d_in: int
    d_sae: int
    gate: GateName
    k: int | None = None
    """Open latents per row, or the most of them; only for gate=topk, pursuit and peel."""
    tied: bool = False
    """Decode with W_enc; then there is no W_dec."""
    scaled: bool = False
    """A learned output scale per latent (the a_m of the GBA paper)."""
    pre_bias: bool = True
    """Subtract b_dec from the input before encoding."""
    normalise: Mode = "none"
    bandwidth: float | None = None
    """Width around the threshold within which it is trained, 0 if it is not; only for
    gate=jumprelu."""
    to_input: bool = False
    """Within it, train the pre-activation too; only for gate=jumprelu."""
    tolerance: float | None = None
    """Share of a row's norm that sparse coding may leave; only for gate=pursuit, which is tied."""

    def __post_init__(self) -> None:
        checks.whole("d_in", self.d_in, 1)
        checks.whole("d_sae", self.d_sae, 1)
        checks.one_of("gate", self.gate, get_args(GateName))
        if self.gate in ("topk", "pursuit", "peel"):
            checks.whole(f"k (with gate={self.gate})", self.k, 1, self.d_sae)
        if self.gate == "pursuit":
            checks.share("tolerance (with gate=pursuit)", self.tolerance)
        if self.gate in ("pursuit", "peel") and (not self.tied or self.scaled):
            raise ValueError(f"gate={self.gate} needs tied=true and scaled=false")
        if self.gate == "jumprelu":
            checks.number("bandwidth (with gate=jumprelu)", self.bandwidth, low=0)
        checks.one_of("normalise", self.normalise, MODES)

    def build_gate(self) -> Gate:
        if self.gate == "topk":
            assert self.k is not None
            return TopKGate(k=self.k)
        if self.gate == "pursuit":
            assert self.k is not None and self.tolerance is not None
            return PursuitGate(k=self.k, tolerance=self.tolerance)
        if self.gate == "peel":
            assert self.k is not None
            return PeelGate(k=self.k)
        if self.gate == "jumprelu":
            assert self.bandwidth is not None
            return JumpReLUGate(bandwidth=self.bandwidth, to_input=self.to_input)
        if self.gate == "gated":
            return GatedGate()
        return ThresholdGate(jump=self.gate == "jump")


@final
@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward pass. Quantities ending in `_in` are in the SAE's own, normalised units."""

    x_in: Float[Tensor, "batch d_in"]
    codes: Codes
    """Values are in normalised units, before the output scale."""
    pre: Codes
    """Pre-activations of the stored entries."""
    scale: Float[Tensor, "batch 1"]
    """Raw units per normalised unit."""
    normaliser: Normaliser
    decode: Callable[[], Float[Tensor, "batch d_in"]] = field(repr=False)
    """Decodes `codes` with the weights that the SAE then has."""
    precision: Precision = "fp32"
    """In which the pass was computed."""

    @cached_property
    def recon_in(self) -> Float[Tensor, "batch d_in"]:
        """Reconstruction; made when first asked for, since not every loss needs it."""
        return self.decode()

    @property
    def recon(self) -> Float[Tensor, "batch d_in"]:
        """Reconstruction in raw units."""
        return self.normaliser.undo(self.recon_in, self.scale)


@final
class SAE(nn.Module):
    """recon = decode(gate(W_enc (x - b_dec) + b_enc)) + b_dec, inside a normaliser.

    Parameters: W_enc and W_dec [d_sae, d_in], b_enc [d_sae], b_dec [d_in], output_scale [d_sae],
    threshold [d_sae], r_mag and b_mag [d_sae] (of gate=gated, whose b_enc opens the gate), size []
    (of gate=peel).
    A method may register buffers of its own (names starting with `state_`); they are saved.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.gate = arch.build_gate()
        shape = (arch.d_sae, arch.d_in)
        self.W_enc = nn.Parameter(torch.zeros(shape))
        self.b_enc = nn.Parameter(torch.zeros(arch.d_sae))
        self.W_dec = None if arch.tied else nn.Parameter(torch.zeros(shape))
        self.b_dec = nn.Parameter(torch.zeros(arch.d_in))
        self.output_scale = nn.Parameter(torch.ones(arch.d_sae)) if arch.scaled else None
        has_threshold = arch.gate in ("jumprelu", "peel")
        self.threshold = nn.Parameter(torch.zeros(arch.d_sae)) if has_threshold else None
        self.size = nn.Parameter(torch.zeros(())) if arch.gate == "peel" else None
        is_gated = arch.gate == "gated"
        self.r_mag = nn.Parameter(torch.zeros(arch.d_sae)) if is_gated else None
        self.b_mag = nn.Parameter(torch.zeros(arch.d_sae)) if is_gated else None
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(arch.d_in))
        self.register_buffer("scale", torch.ones(()))

    @property
    def normaliser(self) -> Normaliser:
        return Normaliser(mode=self.arch.normalise, mean=self.mean, scale=self.scale)

    def set_normaliser(self, normaliser: Normaliser) -> None:
        """Take over the constants of a fitted normaliser of this SAE's mode."""
        self.mean.copy_(normaliser.mean)
        self.scale.copy_(normaliser.scale)

    def written(self) -> Float[Tensor, "d_sae d_in"]:
        """Return the decoder's weights: W_dec, or W_enc where it is tied."""
        return self.W_enc if self.W_dec is None else self.W_dec

    def decoder(self) -> Float[Tensor, "d_sae d_in"]:
        """Return the direction that one unit of each latent writes, in normalised units."""
        W = self.written()
        return W if self.output_scale is None else W * self.output_scale[:, None]

    def encode_in(
        self,
        x_in: Float[Tensor, "batch d_in"],
        precision: Precision = "fp32",
        gate: Gate | None = None,
    ) -> kernels.Encoded:
        """Return codes and pre-activations of activations that are already normalised.

        `gate` stands in for the SAE's own in training steps (see `Trainer.gate`).
        """
        b_pre, used = self.b_dec if self.arch.pre_bias else None, gate or self.gate
        magnitude = None
        if self.r_mag is not None and self.b_mag is not None:
            magnitude = Magnitude(self.r_mag, self.b_mag)
        return kernels.encode(
            x_in,
            self.W_enc,
            self.b_enc,
            b_pre,
            used,
            self.threshold,
            precision,
            magnitude,
            self.size,
        )

    def decode_in(self, codes: Codes, precision: Precision = "fp32") -> Float[Tensor, "batch d_in"]:
        """Return the reconstruction in normalised units."""
        codes = _scaled(codes, self.output_scale)
        return kernels.decode(codes, self.written(), precision) + self.b_dec

    def forward(
        self,
        x: Float[Tensor, "batch d_in"],
        precision: Precision = "fp32",
        gate: Gate | None = None,
    ) -> Pass:
        normaliser = self.normaliser
        x_in, scale = normaliser.apply(x)
        codes, pre = self.encode_in(x_in, precision, gate)
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
        )

    def save(self, folder: Path, extra: dict[str, Any]) -> None:
        """Write `sae.safetensors` and `sae.json` (architecture and `extra`) into `folder`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        save_file(tensors, folder / "sae.safetensors")
        meta = {"format": FORMAT, "architecture": vars(self.arch), "extra": extra}
        (folder / "sae.json").write_text(json.dumps(meta, indent=1))


def _scaled(codes: Codes, scale: Float[Tensor, " d_sae"] | None) -> Codes:
    if scale is None:
        return codes
    if isinstance(codes, SparseCodes):
        return codes.with_values(codes.values * scale[codes.latents])
    return DenseCodes(values=codes.values * scale)


def load(folder: Path, device: str | torch.device = "cpu") -> SAE:
    """Return the SAE saved in `folder`.

    Raises UserError, naming the file, for a missing, damaged or foreign checkpoint.
    """
    meta = read_meta(folder)
    try:
        sae = SAE(Architecture(**meta["architecture"]))
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / 'sae.json'}: bad architecture: {error}") from None
    tensors = _read_tensors(folder / "sae.safetensors")
    for name, tensor in tensors.items():
        if name.startswith("state_"):
            sae.register_buffer(name, torch.zeros_like(tensor))
    try:
        sae.load_state_dict(tensors)
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise UserError(f"{folder}: weights do not fit the architecture: {message}") from None
    return sae.to(device)


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of `sae.json`; raise UserError if it is absent, damaged or of another
    format."""
    path = folder / "sae.json"
    try:
        meta = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: no SAE here (sae.json is missing)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged JSON ({error})") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise UserError(
            f"{path}: checkpoint format must be {FORMAT}, got {found!r}: it is of another version"
        )
    return meta


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: weights are missing") from None
    except SafetensorError as error:
        raise UserError(f"{path}: damaged weights ({error})") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            n_bad = int((~tensor.isfinite()).sum())
            raise UserError(
                f"{path}: {name} must hold finite numbers, {n_bad} of {tensor.numel()} are not"
            )
    return tensors
