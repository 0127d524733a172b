"""What the formats share: how their configs are read, and for which place an SAE says it is."""

import re
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gradsae.errors import UserError
from gradsae.sae.dictionary import Dictionary
from gradsae.sae.model import SAE, make_sae
from gradsae.storage.sealed import read_object


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


class Config(BaseModel):
    """Keys of a config that a loader reads, of the types they must have; it may have others."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


Kind = TypeVar("Kind", bound=Config)
KINDS = {
    **{"hook_resid_post": "resid_post", "output": "resid_post", "": "resid_post"},
    **{"hook_mlp_out": "mlp_out", "mlp": "mlp_out", "mlp.output": "mlp_out"},
    **{"hook_attn_out": "attn_out", "attn": "attn_out", "attention": "attn_out"},
    **{"self_attn": "attn_out", "self_attn.output": "attn_out"},
}
"""Our kinds of site for what hook names and module paths end in."""


def place_of(hook: str | None, model: str | None = None) -> Place:
    """Read a hook name: `blocks.9.hook_resid_post`, `model.layers.9.output`, `layers.9.mlp`."""
    found = re.search(r"(?:^|\.)(?:blocks|layers|h)\.(\d{1,6})\.?(.*)$", hook or "")
    if not found:
        return Place(model)
    layer, rest = int(found[1]), found[2]
    if rest == "hook_resid_pre" and layer > 0:
        return Place(model, "resid_post", layer - 1)
    return Place(model, KINDS.get(rest, rest), layer)


def read_config(kind: type[Kind], path: Path) -> Kind:
    """Return the keys of a JSON config; UserError naming one that is missing or of another type."""
    return parse(kind, read_object(path), path)


def parse(kind: type[Kind], values: dict[str, Any], path: Path) -> Kind:
    """Return the keys of a config that was read from `path`."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        (first, *_) = error.errors()
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise UserError(f"{path}: {field} missing") from None
        given = repr(first["input"])
        shown = given if len(given) <= 60 else f"{given[:60]}..."
        raise UserError(f"{path}: {field}={shown}: {first['msg'].lower()}") from None


def blank(path: Path, **settings: Any) -> SAE:
    """Return an SAE of zeros (see `make_sae`); UserError naming the file and what does not fit."""
    try:
        return make_sae(**settings)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
