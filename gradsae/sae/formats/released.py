"""What the formats share: an SAE out of somebody's files, and for which place they say it is."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from gradsae.errors import UserError
from gradsae.sae.dictionary import Dictionary
from gradsae.sae.model import SAE


class Place(NamedTuple):
    """What an SAE's own files say of where it belongs; None where they say nothing."""

    model: str | None = None
    """Name of the language model, as they write it."""
    kind: str | None = None
    """A kind of `gradsae.lm.sites`, or their own name of a place that has no counterpart here."""
    layer: int | None = None


class Released(NamedTuple):
    sae: Dictionary
    place: Place


KINDS = {
    **{"hook_resid_post": "resid_post", "output": "resid_post", "": "resid_post"},
    **{"hook_mlp_out": "mlp_out", "mlp": "mlp_out", "mlp.output": "mlp_out"},
    **{"hook_attn_out": "attn_out", "attn": "attn_out", "attention": "attn_out"},
    **{"self_attn": "attn_out", "self_attn.output": "attn_out"},
}
"""Our kinds of site for what hook names and module paths end in."""


def place_of(hook: str | None, model: str | None = None) -> Place:
    """Read a hook name: `blocks.9.hook_resid_post`, `model.layers.9.output`, `layers.9.mlp`."""
    found = re.search(r"(?:^|\.)(?:blocks|layers|h)\.(\d+)\.?(.*)$", hook or "")
    if not found:
        return Place(model)
    layer, rest = int(found[1]), found[2]
    if rest == "hook_resid_pre" and layer > 0:
        return Place(model, "resid_post", layer - 1)
    return Place(model, KINDS.get(rest, rest), layer)


def assemble(sae: SAE, weights: Mapping[str, Tensor], folder: Path) -> SAE:
    """Return the SAE with these weights, in float32; UserError where they are not finite or unfit.

    The tensors become the SAE's own, since a copy of a wide one takes gigabytes.
    """
    ours = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    for name, tensor in ours.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{folder}: {name} holds non-finite numbers")
    try:
        sae.load_state_dict(ours | {"mean": sae.mean, "scale": sae.scale}, assign=True)
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise UserError(f"{folder}: the weights do not fit each other: {message}") from None
    return sae


def threshold_of(level: Tensor, d_sae: int) -> Tensor:
    """Return a threshold per latent, of one for all or one for each; at least 0.

    These formats clip codes at zero as well as at the threshold, which a threshold of 0 says.
    """
    level = level.float().clamp_min(0).reshape(-1)
    return level.expand(d_sae) if len(level) == 1 else level


def need(found: Mapping[str, Any], names: tuple[str, ...], path: Path) -> list[Any]:
    """Return the values of some keys; UserError with those that are missing."""
    missing = [name for name in names if found.get(name) is None]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} missing")
    return [found[name] for name in names]


def shape_of(W_enc: Tensor, path: Path) -> tuple[int, int]:
    if W_enc.dim() != 2:
        raise UserError(f"{path}: the encoder must be a matrix, got shape {tuple(W_enc.shape)}")
    return W_enc.shape[0], W_enc.shape[1]


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path.parent}: {path.name} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: must hold a JSON object, got a {type(found).__name__}")
    return found
