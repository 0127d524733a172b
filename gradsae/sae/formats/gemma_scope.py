"""Gemma Scope: `params.npz` (first release) or `params.safetensors` (second).

    codes = pre * (pre > threshold),  pre = relu(x W_enc + b_enc);   recon = codes W_dec + b_dec

Matrices are [d_in, d_sae] and [d_sae, d_in]; the second release writes names in lower case and may
add a `config.json`. Reference: Lieberum et al. 2024, https://arxiv.org/abs/2408.05147, section 2.
"""

import re
from pathlib import Path

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

NPZ, SAFETENSORS, CONFIG = "params.npz", "params.safetensors", "config.json"
PARTS = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
KINDS = {"res": "resid_post", "mlp": "mlp_out", "att": "attention heads before their projection"}


def read(folder: Path) -> Released:
    """Return the SAE of one folder of a release.

    Raises UserError: damaged or incomplete file, a transcoder, a rescaled SAE.
    """
    path, found = read_first(folder, NPZ, SAFETENSORS)
    found = {name.lower(): tensor for name, tensor in found.items()}
    W_enc, W_dec, b_enc, b_dec, threshold = need(found, PARTS, path)
    odd = set(found) - {*PARTS, "scaling_factor"}
    if "scaling_factor" in found and not bool((found["scaling_factor"] == 1).all()):
        odd.add("scaling_factor")
    if odd:
        names = ", ".join(sorted(odd))
        raise UserError(f"{path}: {names} has no counterpart here; only plain SAEs are read")
    d_in, d_sae = shape_of(W_enc, path)
    sae = make_sae(d_in=d_in, d_sae=d_sae, gate="jumprelu", bandwidth=0.0, pre_bias=False)
    weights = {"W_enc": W_enc.mT, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    weights["threshold"] = threshold_of(threshold, d_sae)
    return Released(assemble(sae, weights, folder), _place(folder))


def _place(folder: Path) -> Place:
    """From the config of the second release, else from the names of repository and folders:
    `gemma-scope-9b-it-res/layer_9/width_131k/average_l0_121`."""
    if (folder / CONFIG).exists():
        config = read_json(folder / CONFIG)
        return place_of(config.get("hf_hook_point_in"), config.get("model_name"))
    parts = folder.absolute().parts
    layers = [found for part in parts if (found := re.fullmatch(r"layer_(\d+)", part))]
    layer = int(layers[-1][1]) if layers else None
    repository = r"(?:.*--)?gemma-scope-(\w+)-(it|pt)-(res|mlp|att)(?:-canonical)?"
    named = [found for part in parts if (found := re.fullmatch(repository, part))]
    if not named:
        return Place(layer=layer)
    size, tuned, site = named[-1].groups()
    model = f"gemma-2-{size}" + ("-it" if tuned == "it" else "")
    return Place(model, KINDS[site], layer)
