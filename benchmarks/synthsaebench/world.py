"""Which of the two published worlds a record is of."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.places import CONF
from gradsae.records.record import Record

if TYPE_CHECKING:
    from gradsae.sources.forest import Forest

NAME = "SynthSAEBench-16k"
SAVED = "as saved"
"""Follows the version where the tensors are those that a folder of sae-lens holds."""
NO_LAW = {"seed", "dtype"}
"""Keys of a saved world's config that its law does not depend on."""


def version_of(record: Record) -> str:
    """Return `v2` or `v1` for a record of a published world; else the empty string.

    v2 is the world of the paper: a child's magnitude is scaled by its parent's. v1, uploaded before
    it, lacks that. A world in a folder of sae-lens is known by the law in its config, which the
    record states.
    """
    source = record.config.get("source")
    if not isinstance(source, dict):
        return ""
    if source.get("name") == "forest":
        return next((v for v, world in _worlds().items() if world.identity() == source), "")
    law = record.provenance.get("law")
    if source.get("name") == "saved_world" and isinstance(law, dict):
        return next((f"{v} {SAVED}" for v in _worlds() if _agrees(law, _laws()[v])), "")
    return ""


@cache
def _worlds() -> "dict[str, Forest]":
    from gradsae.sources.forest import Forest  # torch: not before it is needed

    text = (CONF / "source" / "synthsaebench_16k.yaml").read_text(encoding="utf-8")
    fields = {key: value for key, value in yaml.safe_load(text).items() if key != "_target_"}
    v2 = Forest(**fields)
    return {"v2": v2, "v1": replace(v2, scale_children=False)}


@cache
def _laws() -> dict[str, dict[str, Any]]:
    """Return the law of each version as sae-lens writes it."""
    from gradsae.sources.saelens_world import law_of

    return {version: law_of(world) for version, world in _worlds().items()}


def _agrees(law: Mapping[str, Any], published: Mapping[str, Any]) -> bool:
    """Return whether a law has every value of another one; a switch that it lacks is off."""
    for key, value in published.items():
        given = law.get(key, False)
        if isinstance(value, dict):
            if not isinstance(given, dict) or not _agrees(given, value):
                return False
        elif key not in NO_LAW and given != value:
            return False
    return True
