"""The SAE with a linear encoder and a gate: weights, and how checkpoints of any kind are loaded."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradsae import checks
from gradsae.errors import UserError
from gradsae.sae import kernels
from gradsae.sae.codes import Codes
from gradsae.sae.dictionary import FORMAT, Dictionary, Normalised, Reading, fresh_normaliser
from gradsae.sae.directions import random_directions
from gradsae.sae.kernels.gates import make_gate
from gradsae.sae.kernels.gates.gate import Gate, per_entry
from gradsae.sae.kernels.precision import Precision
from gradsae.sae.normalise import MODES, Mode
from gradsae.sae.pursuit import CODERS, blank_coder
from gradsae.sae.weights import check_numbers
from gradsae.storage.sealed import read_object, unsealed
from gradsae.storage.tensors import read_tensors

OF_ALL_GATES = ("k", "bandwidth", "to_input", "tolerance")
"""Settings that files of version 0.1 name for every gate: null or false where it has no such."""
Kind = TypeVar("Kind", bound=Gate)
Blank = Callable[[int], Dictionary]
"""Makes an SAE of a kind of its own for a width d_in, its weights yet to be loaded."""


@final
@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of an SAE around its gate."""

    d_in: int
    d_sae: int
    tied: bool = False
    """Decode with W_enc; then there is no W_dec."""
    scaled: bool = False
    """A learned output scale per latent (the a_m of the GBA paper)."""
    pre_bias: bool = True
    """Subtract b_dec from the input before encoding."""
    normalise: Mode = "none"
    ista_steps: int = 0
    """Steps of ISTA after the linear encoder: each adds a share of what is left of the input."""
    ista_rate: float = 0.25
    """That share."""

    def __post_init__(self) -> None:
        checks.whole("d_in", self.d_in, 1)
        checks.whole("d_sae", self.d_sae, 1)
        checks.one_of("normalise", self.normalise, MODES)
        checks.whole("ista_steps", self.ista_steps, 0)
        checks.number("ista_rate", self.ista_rate, low=0)

    def settings(self) -> dict[str, Any]:
        """Return what `sae.json` says of the shape: the steps of ISTA only where there are some."""
        said = dict(vars(self))
        if not self.ista_steps:
            del said["ista_steps"], said["ista_rate"]
        return said


@final
class SAE(Normalised):
    """recon = decode(gate(W_enc (x - b_dec) + b_enc)) + b_dec, inside a normaliser.

    Parameters: W_enc and W_dec [d_sae, d_in], b_enc [d_sae], b_dec [d_in], output_scale [d_sae],
    and those of the gate, which stand in files beside the others.

    With `ista_steps` the codes are refined: a step encodes z + ista_rate (x - recon) instead of z,
    which is x before the first step. That is pre + ista_rate W_enc (x - recon), an iteration of
    ISTA (Daubechies et al. 2004, https://doi.org/10.1002/cpa.20042) whose threshold is the gate.
    The codes before step i have a gate of their own, `early.i`.
    """

    def __init__(self, arch: Architecture, gate: Gate) -> None:
        super().__init__(fresh_normaliser(arch.normalise, arch.d_in), arch.d_sae, gate.most_open)
        self.arch = arch
        shape = (arch.d_sae, arch.d_in)
        self.W_enc = nn.Parameter(torch.zeros(shape))
        self.b_enc = nn.Parameter(torch.zeros(arch.d_sae))
        self.W_dec = None if arch.tied else nn.Parameter(torch.zeros(shape))
        self.b_dec = nn.Parameter(torch.zeros(arch.d_in))
        self.output_scale = nn.Parameter(torch.ones(arch.d_sae)) if arch.scaled else None
        self.gate = gate
        self.early = nn.ModuleList(deepcopy(gate) for _ in range(arch.ista_steps))
        self.register_state_dict_post_hook(_without_prefix)
        self.register_load_state_dict_pre_hook(_with_prefix)

    def gate_as(self, kind: type[Kind]) -> Kind:
        """Return the gate; TypeError if it is of another kind."""
        if not isinstance(self.gate, kind):
            raise TypeError(f"this SAE has a {type(self.gate).__name__}, not a {kind.__name__}")
        return self.gate

    def decoder_weights(self) -> Float[Tensor, "d_sae d_in"]:
        """Return W_dec, or W_enc where the decoder is tied to it."""
        return self.W_enc if self.W_dec is None else self.W_dec

    def decoder(self) -> Float[Tensor, "d_sae d_in"]:
        """Return the direction that one unit of each latent writes, in normalised units."""
        W = self.decoder_weights()
        return W if self.output_scale is None else W * self.output_scale[:, None]

    def encode_in(
        self,
        x_in: Float[Tensor, "batch d_in"],
        precision: Precision = "fp32",
        gate: Gate | None = None,
    ) -> kernels.Encoded:
        b_pre, early, z = self.b_dec if self.arch.pre_bias else None, list[Codes](), x_in

        def look(z: Tensor, gate: Gate, *, to_input: bool) -> kernels.Encoded:
            W, b = self.W_enc, self.b_enc
            return kernels.encode(z, W, b, b_pre, gate, precision, to_input=to_input)

        for own in self.early:
            early.append(look(z, gate or cast(Gate, own), to_input=bool(early)).codes)
            z = z + self.arch.ista_rate * (x_in - self.decode_in(early[-1], precision))
        return look(z, gate or self.gate, to_input=bool(early))._replace(early=early)

    def decode_in(self, codes: Codes, precision: Precision = "fp32") -> Float[Tensor, "batch d_in"]:
        codes = scaled(codes, self.output_scale)
        return kernels.decode(codes, self.decoder_weights(), precision) + self.b_dec

    def reading(self, x: Float[Tensor, "batch d_in"]) -> Reading:
        return Reading(self.normaliser.apply(x).x, self.W_enc.detach())

    @torch.no_grad()
    def chance(self, generator: torch.Generator) -> "SAE":
        """Return the chance-level control: the same SAE with its directions redrawn.

        Each latent gets one random unit direction, which its encoder row and its decoder row share;
        their norms, and the biases, the gate and the normaliser stay.
        """
        control, directions = deepcopy(self), random_directions(self.d_sae, self.d_in, generator)
        for W in (control.W_enc, control.W_dec):
            if W is not None:
                W.copy_(directions.to(W) * W.norm(dim=1, keepdim=True))
        return control

    def architecture(self) -> dict[str, Any]:
        return {**self.arch.settings(), "gate": self.gate.name, **self.gate.settings()}


def make_sae(
    *,
    d_in: int,
    d_sae: int,
    gate: str,
    tied: bool = False,
    scaled: bool = False,
    pre_bias: bool = True,
    normalise: Mode = "none",
    ista_steps: int = 0,
    ista_rate: float = 0.25,
    **settings: Any,
) -> SAE:
    """Return an SAE of zeros whose gate is named as in files; `settings` are those of the gate.

    Raises ValueError naming what does not fit.
    """
    arch = Architecture(
        d_in=d_in,
        d_sae=d_sae,
        tied=tied,
        scaled=scaled,
        pre_bias=pre_bias,
        normalise=normalise,
        ista_steps=ista_steps,
        ista_rate=ista_rate,
    )
    return SAE(arch, make_gate(gate, d_sae, **settings))


def scaled(codes: Codes, scale: Float[Tensor, " d_sae"] | None) -> Codes:
    """Return codes whose values are multiplied by the output scale of their latent, if any."""
    return codes if scale is None else codes.with_values(codes.values * per_entry(scale, codes))


def _without_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Name the gate's tensors as files do: `threshold`, not `gate.threshold`."""
    long = f"{prefix}gate."
    for name in [name for name in state if name.startswith(long)]:
        state[prefix + name.removeprefix(long)] = state.pop(name)


def _with_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Undo `_without_prefix`."""
    gate = module.get_submodule("gate")
    for name in (*dict(gate.named_parameters()), *dict(gate.named_buffers())):
        if prefix + name in state:
            state[f"{prefix}gate.{name}"] = state.pop(prefix + name)


def load(
    folder: Path, device: str | torch.device = "cpu", *, blank: Blank | None = None
) -> Dictionary:
    """Return the SAE saved in `folder`; `blank` makes one of a kind that is not of this package.

    Raises UserError, naming the file, for a missing, damaged or foreign checkpoint.
    """
    architecture, path = read_meta(folder)["architecture"], folder / "sae.safetensors"
    tensors = read_tensors(path, own=True)
    try:
        _check_width(architecture, tensors, folder)
        sae = _blank_of(architecture, blank)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{folder / 'sae.json'}: bad architecture: {error}") from None
    if sae is None:
        raise UserError(
            f"{folder}: this SAE has an encoder of its own, which only its method can rebuild; "
            "load it as the checkpoint of that method"
        )
    return _loaded(sae, tensors, path).to(device)


def _loaded(sae: Dictionary, tensors: dict[str, Tensor], path: Path) -> Dictionary:
    """Return the SAE with the tensors of a checkpoint."""
    for name, tensor in tensors.items():
        if name.startswith("state_"):
            sae.register_buffer(name, torch.zeros_like(tensor))
    held = sae.state_dict()
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            check_numbers(name, tensor, path)
        if name in held and tensor.is_floating_point() != held[name].is_floating_point():
            raise UserError(f"{path}: {name} must hold {held[name].dtype}, got {tensor.dtype}")
    try:
        sae.load_state_dict(tensors)
    except (RuntimeError, KeyError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"{path.parent}: weights do not fit the architecture: {message}") from None
    if isinstance(sae, Normalised) and not bool(sae.scale > 0):
        raise UserError(f"{path}: scale must be above 0, got {sae.scale.item():g}")
    return sae


def _blank_of(architecture: dict[str, Any], blank: Blank | None) -> Dictionary | None:
    """Return an SAE whose weights are yet to be loaded; None if only its method can make one."""
    name = architecture["gate"]
    if name is None:
        return blank(architecture["d_in"]) if blank else None
    if name in CODERS:
        return blank_coder(architecture)
    absent = [key for key in OF_ALL_GATES if architecture.get(key) is None]
    absent += [key for key in OF_ALL_GATES if architecture.get(key) is False]
    return make_sae(**{key: value for key, value in architecture.items() if key not in absent})


def check_rebuilt(sae: Dictionary, blank: Blank) -> None:
    """Raise UserError unless a checkpoint of this SAE could be loaded again.

    Asked before training: what `blank` makes must have the tensors that will be saved.
    """
    if sae.architecture()["gate"] is not None:
        return
    saved = {k: tuple(t.shape) for k, t in sae.state_dict().items() if not k.startswith("state_")}
    rebuilt = {k: tuple(t.shape) for k, t in blank(sae.d_in).state_dict().items()}
    if saved != rebuilt:
        odd = sorted(set(saved.items()) ^ set(rebuilt.items()))
        raise UserError(
            f"blank(d_in) makes another SAE than build: they differ in {', '.join(map(str, odd))}"
        )


def _check_width(architecture: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> None:
    """Raise UserError for another shape than that of the weights, before so much is allocated."""
    W_enc = tensors.get("W_enc")
    stated = [architecture["d_sae"], architecture["d_in"]]
    if architecture["gate"] is not None and W_enc is not None and stated != [*W_enc.shape]:
        raise UserError(
            f"{folder}: weights do not fit the architecture: W_enc has shape {[*W_enc.shape]}, "
            f"sae.json says [d_sae, d_in] = {stated}"
        )


def read_meta(folder: Path) -> dict[str, Any]:
    """Return `format`, `architecture` and `extra` of `sae.json`.

    Raises UserError if it is absent, damaged or of another format.
    """
    path = folder / "sae.json"
    if not path.exists():
        raise UserError(f"{folder}: no SAE here (sae.json is missing)")
    meta = read_object(path)
    if meta.get("format") != FORMAT:
        raise UserError(
            f"{path}: checkpoint format must be {FORMAT}, got {meta.get('format')!r}: it is of "
            "another version"
        )
    rest = unsealed(meta, path)
    extra = rest.setdefault("extra", {})
    if rest.keys() != {"format", "architecture", "extra"} or not isinstance(extra, dict):
        raise UserError(f"damaged file {path}: it must hold format, architecture and extra")
    return rest
