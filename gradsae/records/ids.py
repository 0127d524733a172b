"""Content ids: the same work has the same id, whoever runs it and under whatever label."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

BOOKKEEPING = {
    *("device", "tracking", "force", "label", "experiment", "name", "notes", "tags"),
    *("paths", "results", "out", "cache", "launcher", "hydra", "progress", "threads"),
}
"""Top-level parts of a config that say how, where or under which name a cell ran, not what was
measured. They do not shape the record id."""

SEED_NAMES = {"seed", "seeds", "checkpoint", "checkpoints"}
"""Keys that hold what differs between the seeds of one setting."""


def content_id(obj: Any) -> str:
    """Return 16 hex digits that name a JSON-able value; 1 and 1.0 are the same value."""
    text = json.dumps(_canonical(obj), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(config: Mapping[str, Any], seeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured on what: the config without its bookkeeping, and the seeds."""
    return {
        "config": {key: value for key, value in config.items() if key not in BOOKKEEPING},
        "seeds": dict(seeds),
    }


def record_id(task: Mapping[str, Any], config: Mapping[str, Any], seeds: Mapping[str, Any]) -> str:
    """Return the id of the record that measures `task` on `config`; known before the run."""
    return content_id({"task": dict(task), "identity": identity(config, seeds)})


def setting_id(task: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the id of a task on a config whatever the seeds; task versions are never mixed."""
    return content_id([dict(task), _without_seeds(identity(config, {})["config"])])


def _without_seeds(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_seeds(v) for k, v in value.items() if k not in SEED_NAMES}
    return value


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value
