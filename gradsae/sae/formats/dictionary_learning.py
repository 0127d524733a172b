"""Folders of dictionary_learning: `ae.pt` and `config.json`.

`ae.pt` is a pickle of tensors (see `tensors`). An `ae.safetensors` of the same names beside it is
taken instead.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from gradsae.errors import UserError
from gradsae.sae.formats.released import (
    Place,
    Released,
    assemble,
    need,
    place_of,
    read_json,
    shape_of,
    threshold_of,
)
from gradsae.sae.formats.tensors import read_first
from gradsae.sae.model import make_sae

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
NAMES = {
    **{"bias": "b_dec", "decoder_bias": "b_dec", "decoder.bias": "b_dec"},
    **{"encoder.bias": "b_enc", "gate_bias": "b_enc", "mag_bias": "b_mag"},
}
"""Their names of vectors, where they differ from ours."""


def read(folder: Path) -> Released:
    """Return the SAE of one trained dictionary.

    The same function and codes as their `load_dictionary`: it brings the directions of an
    AutoEncoder to norm 1. Raises UserError: damaged or incomplete file, unknown class.
    """
    (trainer,) = need(read_json(folder / CONFIG), ("trainer",), folder / CONFIG)
    kind = trainer.get("dict_class")
    if kind not in GATES:
        raise UserError(
            f"{folder / CONFIG}: dict_class={kind!r} has no counterpart here; known are "
            f"{', '.join(GATES)}"
        )
    path, found = read_first(folder, SAFETENSORS, PICKLE)
    weights = _our_weights(found, path)
    d_sae, d_in = shape_of(weights["W_enc"], path)
    is_jump = GATES[kind] == "jumprelu"
    if is_jump:
        weights["threshold"] = threshold_of(need(found, ("threshold",), path)[0], d_sae)
    if kind == "AutoEncoder":
        norm = weights["W_dec"].norm(dim=1)
        weights["W_enc"] = weights["W_enc"] * norm[:, None]
        weights["b_enc"] = weights["b_enc"] * norm
        weights["W_dec"] = weights["W_dec"] / norm[:, None]
    settings: dict[str, Any] = {"bandwidth": 0.0} if is_jump else {}
    if kind == "AutoEncoderTopK":
        settings["k"] = _k(found, trainer, folder)
    pre_bias = kind not in WITHOUT_PRE_BIAS
    sae = make_sae(d_in=d_in, d_sae=d_sae, gate=GATES[kind], pre_bias=pre_bias, **settings)
    return Released(assemble(sae, weights, folder), _place(trainer))


def _our_weights(found: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return matrices [d_sae, d_in] and vectors under our names."""
    if "encoder.weight" in found:
        W_enc, W_dec = need(found, ("encoder.weight", "decoder.weight"), path)
        matrices = {"W_enc": W_enc, "W_dec": W_dec.mT}
    else:
        W_enc, W_dec = need(found, ("W_enc", "W_dec"), path)
        matrices = {"W_enc": W_enc.mT, "W_dec": W_dec}
    vectors = {NAMES.get(name, name): tensor for name, tensor in found.items()}
    wanted = ["b_enc", "b_dec", *(["r_mag", "b_mag"] if "r_mag" in found else [])]
    values = need(vectors, tuple(wanted), path)
    return {**matrices, **dict(zip(wanted, values, strict=True))}


def _k(found: dict[str, Tensor], trainer: dict[str, Any], folder: Path) -> int:
    stated = {int(k) for k in (found.get("k"), trainer.get("k")) if k is not None}
    if len(stated) != 1:
        raise UserError(f"{folder}: weights and {CONFIG} must state one k, got {sorted(stated)}")
    return stated.pop()


def _place(trainer: dict[str, Any]) -> Place:
    """The layer, and the kind where the name of the submodule gives it away."""
    name, layer = str(trainer.get("submodule_name") or ""), trainer.get("layer")
    words = {"resid": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}
    kind = next((kind for word, kind in words.items() if name.startswith(word)), None)
    return place_of(None, trainer.get("lm_name"))._replace(kind=kind, layer=layer)
