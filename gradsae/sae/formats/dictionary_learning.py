"""Folders of dictionary_learning: `ae.pt` and `config.json`.

`ae.pt` is a pickle of tensors (see `tensors`). An `ae.safetensors` of the same names beside it is
taken instead.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from gradsae.errors import UserError
from gradsae.sae.formats.released import Config, Place, Released, blank, place_of, read_config
from gradsae.sae.formats.tensors import read_first
from gradsae.sae.weights import check_weights, direction_norms, fill, level_of, refuse_others

CONFIG, PICKLE, SAFETENSORS = "config.json", "ae.pt", "ae.safetensors"
GATES = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "GatedAutoEncoder": "gated",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
    "JumpReluAutoEncoder": "jumprelu",
}
WITHOUT_PRE_BIAS = ("AutoEncoderNew", "JumpReluAutoEncoder")
VECTORS = {
    **{"bias": "b_dec", "decoder_bias": "b_dec", "decoder.bias": "b_dec", "b_dec": "b_dec"},
    **{"encoder.bias": "b_enc", "gate_bias": "b_enc", "b_enc": "b_enc"},
    **{"mag_bias": "b_mag", "b_mag": "b_mag", "r_mag": "r_mag"},
}
"""Their names of vectors, and ours."""
LINEAR = {"encoder.weight": ("d_sae", "d_in"), "decoder.weight": ("d_in", "d_sae")}
MATRICES = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_in")}
"""Matrices of classes that hold linear layers, and of those that hold parameters."""


class Trainer(Config):
    dict_class: str | None = None
    k: int | None = None
    submodule_name: str | None = None
    layer: int | None = None
    lm_name: str | None = None


class Dictionary(Config):
    trainer: Trainer


def read(folder: Path) -> Released:
    """Return the SAE of one trained dictionary.

    The same function and codes as their `load_dictionary`: it brings the directions of an
    AutoEncoder to norm 1. Raises UserError: damaged or incomplete file, unknown class.
    """
    trainer = read_config(Dictionary, folder / CONFIG).trainer
    kind = trainer.dict_class
    if kind not in GATES:
        raise UserError(
            f"{folder / CONFIG}: dict_class={kind!r} has no counterpart here; known are "
            f"{', '.join(GATES)}"
        )
    path, tensors = read_first(folder, SAFETENSORS, PICKLE)
    weights = _our_weights(tensors, GATES[kind], path)
    d_sae, d_in = weights["W_enc"].shape
    settings: dict[str, Any] = {}
    if GATES[kind] == "jumprelu":
        weights["threshold"] = level_of(tensors, "threshold", d_sae, path)
        settings["bandwidth"] = 0.0
    if GATES[kind] == "topk":
        settings["k"] = _k(tensors, trainer, folder)
    if kind == "AutoEncoder":
        norm = direction_norms(weights["W_dec"], path, f"dict_class={kind}")
        weights["W_enc"] = weights["W_enc"] * norm[:, None]
        weights["b_enc"] = weights["b_enc"] * norm
        weights["W_dec"] = weights["W_dec"] / norm[:, None]
    pre_bias = kind not in WITHOUT_PRE_BIAS
    sae = blank(folder, d_in=d_in, d_sae=d_sae, gate=GATES[kind], pre_bias=pre_bias, **settings)
    return Released(fill(sae, weights, path), _place(trainer))


def _our_weights(tensors: dict[str, Tensor], gate: str, path: Path) -> dict[str, Tensor]:
    """Return matrices [d_sae, d_in] and vectors under our names."""
    matrices = LINEAR if "encoder.weight" in tensors else MATRICES
    refuse_others(tensors, (*matrices, *VECTORS, "threshold"), path)
    named = {VECTORS.get(name, name): tensor for name, tensor in tensors.items()}
    sizes = {"b_enc": ("d_sae",), "b_dec": ("d_in",)}
    if gate == "gated":
        sizes |= {"r_mag": ("d_sae",), "b_mag": ("d_sae",)}
    check_weights(named, {**matrices, **sizes}, path)
    vectors = {name: named[name] for name in sizes}
    if matrices is LINEAR:
        W_enc, W_dec = tensors["encoder.weight"], tensors["decoder.weight"].mT
    else:
        W_enc, W_dec = tensors["W_enc"].mT, tensors["W_dec"]
    return {"W_enc": W_enc, "W_dec": W_dec, **vectors}


def _k(tensors: dict[str, Tensor], trainer: Trainer, folder: Path) -> int:
    stored = tensors.get("k")
    if stored is not None and (stored.numel() != 1 or stored.is_floating_point()):
        raise UserError(f"{folder}: k must be one whole number, got {stored.tolist()!r:.60}")
    stated = {int(k) for k in (stored, trainer.k) if k is not None}
    if len(stated) != 1:
        raise UserError(f"{folder}: weights and {CONFIG} must state one k, got {sorted(stated)}")
    return stated.pop()


def _place(trainer: Trainer) -> Place:
    """The layer, and the kind where the name of the submodule gives it away."""
    name = trainer.submodule_name or ""
    words = {"resid": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}
    kind = next((kind for word, kind in words.items() if name.startswith(word)), None)
    return place_of(None, trainer.lm_name)._replace(kind=kind, layer=trainer.layer)
