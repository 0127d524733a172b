"""Gemma Scope: `params.npz` (first release) or `params.safetensors` (second).

    codes = pre * (pre > threshold),  pre = relu(x W_enc + b_enc);   recon = codes W_dec + b_dec

Matrices are [d_in, d_sae] and [d_sae, d_in]; the second release writes names in lower case and may
add a `config.json`. Reference: Lieberum et al. 2024, https://arxiv.org/abs/2408.05147, section 2.
"""

import re
from pathlib import Path

from gradsae.sae.formats.released import Config, Place, Released, blank, place_of, read_config
from gradsae.sae.formats.tensors import read_first
from gradsae.sae.weights import check_weights, fill, level_of, refuse_others

NPZ, SAFETENSORS, CONFIG = "params.npz", "params.safetensors", "config.json"
LAYOUT = {
    **{"w_enc": ("d_in", "d_sae"), "w_dec": ("d_sae", "d_in")},
    **{"b_enc": ("d_sae",), "b_dec": ("d_in",)},
}
KINDS = {"res": "resid_post", "mlp": "mlp_out", "att": "attention heads before their projection"}


class Second(Config):
    """The config of the second release."""

    hf_hook_point_in: str | None = None
    model_name: str | None = None


def read(folder: Path) -> Released:
    """Return the SAE of one folder of a release.

    Raises UserError: damaged or incomplete file, a transcoder, a rescaled SAE.
    """
    path, tensors = read_first(folder, NPZ, SAFETENSORS)
    tensors = {name.lower(): tensor for name, tensor in tensors.items()}
    if "scaling_factor" in tensors and bool((tensors["scaling_factor"] == 1).all()):
        del tensors["scaling_factor"]
    refuse_others(tensors, (*LAYOUT, "threshold"), path)
    sizes = check_weights(tensors, LAYOUT, path)
    sae = blank(path, **sizes, gate="jumprelu", bandwidth=0.0, pre_bias=False)
    weights = {
        **{"W_enc": tensors["w_enc"].mT, "b_enc": tensors["b_enc"]},
        **{"W_dec": tensors["w_dec"], "b_dec": tensors["b_dec"]},
        "threshold": level_of(tensors, "threshold", sizes["d_sae"], path),
    }
    return Released(fill(sae, weights, path), _place(folder))


def _place(folder: Path) -> Place:
    """From the config of the second release, else from the names of repository and folders:
    `gemma-scope-9b-it-res/layer_9/width_131k/average_l0_121`."""
    if (folder / CONFIG).exists():
        config = read_config(Second, folder / CONFIG)
        return place_of(config.hf_hook_point_in, config.model_name)
    parts = folder.absolute().parts
    layers = [match for part in parts if (match := re.fullmatch(r"layer_(\d{1,6})", part))]
    layer = int(layers[-1][1]) if layers else None
    repository = r"(?:.*--)?gemma-scope-(\w+)-(it|pt)-(res|mlp|att)(?:-canonical)?"
    named = [match for part in parts if (match := re.fullmatch(repository, part))]
    if not named:
        return Place(layer=layer)
    size, tuned, site = named[-1].groups()
    model = f"gemma-2-{size}" + ("-it" if tuned == "it" else "")
    return Place(model, KINDS[site], layer)
