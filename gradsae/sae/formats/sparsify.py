"""Folders of sparsify: `sae.safetensors` and `cfg.json`; TopK after a ReLU.

codes = the k largest of relu((x - b_dec) W_enc^T + b_enc);   recon = codes W_dec + b_dec
"""

from pathlib import Path

from gradsae.errors import UserError
from gradsae.sae.formats.released import Config, Place, Released, blank, place_of, read_config
from gradsae.sae.weights import check_sizes, check_weights, fill, refuse_others
from gradsae.storage.tensors import read_tensors

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
LAYOUT = {
    **{"encoder.weight": ("d_sae", "d_in"), "encoder.bias": ("d_sae",)},
    **{"W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)},
}
OURS = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}
PLAIN = {"activation": "topk", "transcode": False, "skip_connection": False, "signed": False}
"""What a config must say, or leave out, to be an SAE as it is known here."""


class Sparsify(Config):
    d_in: int
    k: int
    activation: str = "topk"
    transcode: bool = False
    skip_connection: bool = False
    signed: bool = False


class Run(Config):
    model: str | None = None


def read(folder: Path) -> Released:
    """Return the SAE of one hookpoint, from the folder of that name.

    Raises UserError: damaged or incomplete file, a transcoder, another activation.
    """
    path, weights = folder / CONFIG, folder / WEIGHTS
    config = read_config(Sparsify, path)
    for name, plain in PLAIN.items():
        if (value := getattr(config, name)) != plain:
            raise UserError(f"{path}: {name}={value!r} has no counterpart here")
    tensors = read_tensors(weights)
    refuse_others(tensors, LAYOUT, weights)
    sizes = check_weights(tensors, LAYOUT, weights)
    check_sizes({"d_in": config.d_in}, sizes, path, weights)
    sae = blank(path, **sizes, gate="topk", k=config.k)
    ours = {OURS.get(name, name): tensors[name] for name in LAYOUT}
    return Released(fill(sae, ours, weights), _place(folder))


def _place(folder: Path) -> Place:
    """The folder is named after the module; the model stands in the config of the whole run."""
    run = folder.absolute().parent / "config.json"
    return place_of(folder.name, read_config(Run, run).model if run.exists() else None)
