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
from gradsae.sae.formats.released import Released, need, place_of, read_json, threshold_of
from gradsae.sae.formats.tensors import read_safetensors
from gradsae.sae.kernels.gates.gated import GatedGate
from gradsae.sae.kernels.gates.jumprelu import JumpReLUGate
from gradsae.sae.model import SAE, make_sae
from gradsae.storage.files import check_writable, writing

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
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
    tensors, config = _their_weights(sae), _their_config(sae, about or {})
    check_writable(folder)
    fresh = folder / f"{WEIGHTS}.partial"
    with writing("an exported SAE", folder, leaving=fresh):
        save_file({k: t.float().cpu().contiguous() for k, t in tensors.items()}, fresh)
        fresh.replace(folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(config, indent=1))


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


def from_saelens(folder: Path) -> SAE:
    """Return the SAE that sae-lens saved in `folder`, for training or for inference.

    Raises UserError, naming the file, for what is damaged or cannot be said here.
    """
    config, theirs = _read_config(folder / CONFIG), _read_weights(folder / WEIGHTS)
    per_token = config["normalize_activations"] == PER_TOKEN
    d_in, gate = config["d_in"], OURS[config["architecture"]]
    settings = {"topk": {"k": config.get("k")}, "jumprelu": {"bandwidth": 0.0}}
    sae = make_sae(
        d_in=d_in,
        d_sae=config["d_sae"],
        gate=gate,
        pre_bias=config.get("apply_b_dec_to_input", True),
        normalise="token" if per_token else "none",
        **settings.get(gate, {}),
    )
    unit = math.sqrt(d_in) if per_token else 1.0
    try:
        weights = _our_weights(theirs, config, unit)
        sae.load_state_dict(weights | {"mean": sae.mean, "scale": sae.scale})
    except KeyError as error:
        raise UserError(f"{folder / WEIGHTS}: {error} is missing") from None
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise UserError(f"{folder}: weights do not fit {CONFIG}: {message}") from None
    return sae


def _our_weights(
    theirs: dict[str, Tensor], config: dict[str, Any], unit: float
) -> dict[str, Tensor]:
    """Return the weights under our names; `unit` is their norm of a row over ours."""
    gate = OURS[config["architecture"]]
    norm = theirs["W_dec"].norm(dim=1) if config.get("rescale_acts_by_decoder_norm") else 1.0
    weights = {
        "W_enc": theirs["W_enc"].mT * _column(norm) * unit,
        "b_enc": theirs["b_gate" if gate == "gated" else "b_enc"] * norm,
        "W_dec": theirs["W_dec"] / _column(norm) / unit,
        "b_dec": theirs["b_dec"] / unit,
    }
    if gate == "gated":
        weights |= {"r_mag": theirs["r_mag"], "b_mag": theirs["b_mag"]}
    if gate == "jumprelu":
        trained = config["architecture"] == "jumprelu"
        level = theirs["threshold" if trained else "topk_threshold"]
        weights["threshold"] = threshold_of(level, len(weights["b_enc"]))
    return {name: tensor.float().contiguous() for name, tensor in weights.items()}


def _column(norm: Tensor | float) -> Tensor | float:
    return norm[:, None] if isinstance(norm, Tensor) else norm


def read(folder: Path) -> Released:
    """Return the SAE of a folder and the place that its config names."""
    config = read_json(folder / CONFIG)
    about = {**config, **(config.get("metadata") or {})}
    hook = about.get("hook_name") or about.get("hook_point")
    return Released(from_saelens(folder), place_of(hook, about.get("model_name")))


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path.parent}: no sae-lens SAE here ({path.name} is missing)")
    config = _renewed(read_json(path))
    need(config, ("architecture", "d_in", "d_sae", "normalize_activations"), path)
    allowed = {
        "architecture": (*OURS,),
        "normalize_activations": ("none", "expected_average_only_in", PER_TOKEN),
        "reshape_activations": ("none",),
        "activation_fn": ("relu", "topk"),
        "finetuning_scaling_factor": (False,),
    }
    for name, options in allowed.items():
        if config.get(name, options[0]) not in options:
            raise UserError(
                f"{path}: {name}={config[name]!r} has no counterpart here; "
                f"known are {', '.join(map(str, options))}"
            )
    return config


def _renewed(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config from before sae-lens 6 as version 6 would write it, and others as they are.

    The old ones leave out what was the default then, and name TopK only as an activation function.
    """
    about = {**config, **(config.get("metadata") or {})}
    version = str(about.get("sae_lens_version") or "0").partition(".")[0]
    if version.isdecimal() and int(version) >= 6:
        return config
    hook = str(about.get("hook_name") or about.get("hook_point") or "")
    normalise = config.get("normalize_activations") or "none"
    old = {
        "architecture": "standard",
        "reshape_activations": "hook_z" if "hook_z" in hook else "none",
        **config,
        "normalize_activations": "expected_average_only_in" if normalise is True else normalise,
        "activation_fn": config.get("activation_fn_str") or config.get("activation_fn") or "relu",
    }
    if old["activation_fn"] == "topk":
        old |= {"architecture": "topk", "k": (config.get("activation_fn_kwargs") or {}).get("k")}
    return old


def _read_weights(path: Path) -> dict[str, Tensor]:
    found = {name: tensor.double() for name, tensor in read_safetensors(path).items()}
    if bool((found.get("scaling_factor", torch.ones(())) != 1).any()):
        raise UserError(f"{path}: scaling_factor has no counterpart here")
    return found
