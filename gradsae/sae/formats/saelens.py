"""SAEs in the folder format of sae-lens (`cfg.json`, `sae_weights.safetensors`), both ways.

An SAE that leaves or comes stays the same function of raw activations: our normaliser and output
scale are folded into the weights. Written for sae-lens 6; configs from before it are read, too.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradsae.errors import UserError
from gradsae.sae.dictionary import Dictionary
from gradsae.sae.formats.released import Config, Released, blank, parse, place_of
from gradsae.sae.kernels.gates.gated import GatedGate
from gradsae.sae.kernels.gates.jumprelu import JumpReLUGate
from gradsae.sae.model import SAE
from gradsae.sae.weights import (
    Layout,
    check_sizes,
    check_weights,
    direction_norms,
    fill,
    level_of,
    refuse_others,
)
from gradsae.storage.files import check_writable, write_whole, writing
from gradsae.storage.sealed import read_object
from gradsae.storage.tensors import read_tensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
TARGET = "the target"
THEIRS = {
    "relu": "standard",
    "topk": "topk",
    "jump": "jumprelu",
    "jumprelu": "jumprelu",
    "gated": "gated",
}
"""Their architecture for each of our gates. Their JumpReLU also takes over `jump`: the bias that
opens the gate becomes a threshold."""
OURS = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
}
PER_TOKEN = "constant_norm_rescale"
"""Their normalisation of each row, to norm sqrt(d_in); ours (`token`) is to norm 1."""


def to_saelens(sae: Dictionary, folder: Path, about: dict[str, Any] | None = None) -> None:
    """Write `sae` so that `sae_lens.SAE.load_from_disk(folder)` is the same function.

    `about` goes into their metadata. Raises UserError for what their format cannot say.
    """
    from safetensors.torch import save_file

    if not isinstance(sae, SAE) or sae.gate.name not in THEIRS:
        kind = sae.architecture()["gate"] or type(sae).__name__
        raise UserError(f"gate={kind} cannot be exported: sae-lens has no such architecture")
    if sae.arch.ista_steps:
        raise UserError(
            f"ista_steps={sae.arch.ista_steps} cannot be exported: sae-lens has no encoder that "
            "refines its codes"
        )
    tensors, config = _their_weights(sae), _their_config(sae, about or {})
    check_writable(folder, TARGET)
    with writing("an exported SAE", folder / WEIGHTS, TARGET) as fresh:
        save_file({k: t.float().cpu().contiguous() for k, t in tensors.items()}, fresh)
        write_whole(folder / CONFIG, json.dumps(config, indent=1))


def _their_config(sae: SAE, about: dict[str, Any]) -> dict[str, Any]:
    arch = sae.arch
    config = {
        "architecture": THEIRS[sae.gate.name],
        "d_in": arch.d_in,
        "d_sae": arch.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": arch.pre_bias,
        "normalize_activations": PER_TOKEN if arch.normalise == "token" else "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", "trained_with": "gradsae", **about},
    }
    if sae.gate.name == "topk":
        config |= {**sae.gate.settings(), "rescale_acts_by_decoder_norm": False}
    return config


@torch.no_grad()
def _their_weights(sae: SAE) -> dict[str, Tensor]:
    """Return the weights under their names, for activations as they come."""
    arch = sae.arch
    mean, scale = sae.mean.double(), sae.scale.double()
    if arch.normalise == "token":
        if bool(mean.any()):
            raise UserError(
                "normalise=token with centre=true cannot be exported: a scale that differs from "
                "row to row is not folded into weights, and sae-lens rescales rows uncentred"
            )
        scale = torch.tensor(math.sqrt(arch.d_in), dtype=torch.float64, device=mean.device)
    W_enc, b_dec = sae.W_enc.double() / scale, sae.b_dec.double() * scale + mean
    shift = 0 if arch.pre_bias else -W_enc @ mean  # else b_dec takes the mean off the input
    weights = {
        "W_enc": W_enc.mT,
        "W_dec": sae.decoder().double() * scale,
        "b_dec": b_dec,
        "b_enc": sae.b_enc.double() + shift,
    }
    if sae.gate.name == "jump":  # opens where u + b > 0 and puts out u
        weights |= {
            "threshold": -sae.b_enc.double(),
            "b_enc": shift + torch.zeros_like(W_enc[:, 0]),
        }
    if isinstance(sae.gate, GatedGate):
        r_mag = sae.gate.r_mag.double()
        weights |= {"r_mag": r_mag, "b_mag": sae.gate.b_mag.double() + r_mag.exp() * shift}
        weights["b_gate"] = weights.pop("b_enc")
    if isinstance(sae.gate, JumpReLUGate):
        weights["threshold"] = sae.gate.threshold.double()
    if "threshold" in weights and bool((weights["threshold"] < 0).any()):
        raise UserError(
            "a latent that opens below zero cannot be exported: sae-lens clips its codes at zero"
        )
    return weights


class Lens(Config):
    """A config as sae-lens 6 writes it."""

    architecture: str
    d_in: int
    d_sae: int
    normalize_activations: str
    apply_b_dec_to_input: bool = True
    rescale_acts_by_decoder_norm: bool = False
    k: int | float | None = None
    reshape_activations: str = "none"
    activation_fn: str = "relu"
    finetuning_scaling_factor: bool = False

    @property
    def gate(self) -> str:
        return OURS[self.architecture]

    @property
    def is_per_token(self) -> bool:
        return self.normalize_activations == PER_TOKEN


class Older(Config):
    """The keys of older configs, and of the metadata of newer ones, whose type matters here."""

    normalize_activations: bool | str | None = None
    activation_fn: str | None = None
    activation_fn_str: str | None = None
    activation_fn_kwargs: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    hook_name: str | None = None
    hook_point: str | None = None
    model_name: str | None = None
    sae_lens_version: str | None = None


ALLOWED = {
    "architecture": (*OURS,),
    "normalize_activations": ("none", "expected_average_only_in", PER_TOKEN),
    "reshape_activations": ("none",),
    "activation_fn": ("relu", "topk"),
    "finetuning_scaling_factor": (False,),
}
"""The values that have a counterpart here."""


def read(folder: Path) -> Released:
    """Return the SAE of a folder and the place that its config names."""
    about = _about(read_object(folder / CONFIG), folder / CONFIG)
    return Released(from_saelens(folder), place_of(_hook(about), about.model_name))


def from_saelens(folder: Path) -> SAE:
    """Return the SAE that sae-lens saved in `folder`, for training or for inference.

    Raises UserError, naming the file, for what is damaged or cannot be said here.
    """
    path, weights_path = folder / CONFIG, folder / WEIGHTS
    config = _read_config(path)
    tensors = _read_weights(weights_path)
    layout = _layout(config.gate)
    sizes = check_weights(tensors, layout, weights_path)
    check_sizes({"d_in": config.d_in, "d_sae": config.d_sae}, sizes, path, weights_path)
    settings = {"topk": {"k": config.k}, "jumprelu": {"bandwidth": 0.0}}
    sae = blank(
        path,
        **sizes,
        gate=config.gate,
        pre_bias=config.apply_b_dec_to_input,
        normalise="token" if config.is_per_token else "none",
        **settings.get(config.gate, {}),
    )
    return fill(sae, _our_weights(tensors, config, weights_path), weights_path)


def _layout(gate: str) -> Layout:
    latents = ("b_gate", "b_mag", "r_mag") if gate == "gated" else ("b_enc",)
    matrices = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}
    return {**matrices, **{name: ("d_sae",) for name in latents}}


def _our_weights(theirs: dict[str, Tensor], config: Lens, path: Path) -> dict[str, Tensor]:
    """Return the weights under our names."""
    unit = math.sqrt(config.d_in) if config.is_per_token else 1.0  # norm of a row: theirs over ours
    norm: Tensor | float = 1.0
    if config.rescale_acts_by_decoder_norm:
        norm = direction_norms(theirs["W_dec"], path, "rescale_acts_by_decoder_norm=true")
    weights = {
        "W_enc": theirs["W_enc"].mT * _column(norm) * unit,
        "b_enc": theirs["b_gate" if config.gate == "gated" else "b_enc"] * norm,
        "W_dec": theirs["W_dec"] / _column(norm) / unit,
        "b_dec": theirs["b_dec"] / unit,
    }
    if config.gate == "gated":
        weights |= {"r_mag": theirs["r_mag"], "b_mag": theirs["b_mag"]}
    if config.gate == "jumprelu":
        name = "threshold" if config.architecture == "jumprelu" else "topk_threshold"
        weights["threshold"] = level_of(theirs, name, config.d_sae, path)
    return weights


def _column(norm: Tensor | float) -> Tensor | float:
    return norm[:, None] if isinstance(norm, Tensor) else norm


def _read_config(path: Path) -> Lens:
    if not path.exists():
        raise UserError(f"{path.parent}: no sae-lens SAE here ({path.name} is missing)")
    config = parse(Lens, _renewed(read_object(path), path), path)
    for name, options in ALLOWED.items():
        if (value := getattr(config, name)) not in options:
            raise UserError(
                f"{path}: {name}={value!r} has no counterpart here; "
                f"known are {', '.join(map(str, options))}"
            )
    return config


def _about(config: dict[str, Any], path: Path) -> Older:
    """Return what a config says of itself, in its metadata or, if it is old, beside the rest."""
    metadata = parse(Older, config, path).metadata or {}
    return parse(Older, {**config, **metadata, "metadata": None}, path)


def _hook(about: Older) -> str:
    return about.hook_name or about.hook_point or ""


def _renewed(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a config from before sae-lens 6 as version 6 would write it, and others as they are.

    The old ones leave out what was the default then, and name TopK only as an activation function.
    """
    about, old = _about(config, path), parse(Older, config, path)
    version = (about.sae_lens_version or "0").partition(".")[0]
    if version.isdecimal() and int(version[:6]) >= 6:
        return config
    normalise = old.normalize_activations or "none"
    renewed = {
        "architecture": "standard",
        "reshape_activations": "hook_z" if "hook_z" in _hook(about) else "none",
        **config,
        "normalize_activations": "expected_average_only_in" if normalise is True else normalise,
        "activation_fn": old.activation_fn_str or old.activation_fn or "relu",
    }
    if renewed["activation_fn"] == "topk":
        renewed |= {"architecture": "topk", "k": (old.activation_fn_kwargs or {}).get("k")}
    return renewed


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights in float64, in which they are scaled."""
    tensors = read_tensors(path)
    known = (*_layout("gated"), "b_enc", "threshold", "topk_threshold", "scaling_factor")
    refuse_others(tensors, known, path)
    if bool((tensors.get("scaling_factor", torch.ones(())) != 1).any()):
        raise UserError(f"{path}: scaling_factor has no counterpart here")
    return {k: t.double() if t.is_floating_point() else t for k, t in tensors.items()}
