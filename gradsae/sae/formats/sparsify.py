"""Folders of sparsify: `sae.safetensors` and `cfg.json`; TopK after a ReLU.

codes = the k largest of relu((x - b_dec) W_enc^T + b_enc);   recon = codes W_dec + b_dec
"""

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
)
from gradsae.sae.formats.tensors import read_safetensors
from gradsae.sae.model import make_sae

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
PLAIN = {"activation": "topk", "transcode": False, "skip_connection": False, "signed": False}
"""What a config must say, or leave out, to be an SAE as it is known here."""


def read(folder: Path) -> Released:
    """Return the SAE of one hookpoint, from the folder of that name.

    Raises UserError: damaged or incomplete file, a transcoder, another activation.
    """
    path, config = folder / CONFIG, read_json(folder / CONFIG)
    for name, plain in PLAIN.items():
        if config.get(name, plain) != plain:
            raise UserError(f"{path}: {name}={config[name]!r} has no counterpart here")
    d_in, k = need(config, ("d_in", "k"), path)
    found = read_safetensors(folder / WEIGHTS)
    names = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
    W_enc, b_enc, W_dec, b_dec = need(found, names, folder / WEIGHTS)
    d_sae, width = shape_of(W_enc, folder / WEIGHTS)
    if width != d_in:
        raise UserError(f"{path}: d_in={d_in}, but {WEIGHTS} holds weights for {width}")
    weights = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    sae = make_sae(d_in=d_in, d_sae=d_sae, gate="topk", k=k)
    return Released(assemble(sae, weights, folder), _place(folder))


def _place(folder: Path) -> Place:
    """The folder is named after the module; the model stands in the config of the whole run."""
    run = folder.absolute().parent / "config.json"
    return place_of(folder.name, read_json(run).get("model") if run.exists() else None)
