"""Experiment files: what their `all`, `rows` and `sweep` mean to Hydra.

    all:                          # words of every row (of the experiment, if it has no rows)
      source: lm_layer            # a group: which file of conf/source
      source.n_tokens: 1_000_000  # any other field
    rows:
      layer_7: {source.layer: 7}  # `row=layer_7` on the command line
    sweep:                        # values that are crossed, with one another and with the rows
      trainer: topk,l1

Hydra sees each row as a config of the group `row` (`row=EXPERIMENT/NAME`), and the experiment as a
sweep over its rows. So a row changes what the experiment says, the user's words change both, and
every launcher works.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gradsae.errors import UserError

KEYS = {"all", "rows", "sweep"}
HYDRA = {"defaults", "hydra"}
IsGroup = Callable[[str], bool]
"""Whether a word is a config group, whose value names a file."""


def read(path: Path) -> Mapping[str, Any]:
    """Return an experiment file as plain values; UserError for a key that it cannot have."""
    return _read(path, path.stat().st_mtime_ns)


def rows_of(path: Path) -> list[str]:
    """Return the rows that an experiment runs; EXPERIMENT/NAME for those of another one."""
    given = read(path)
    swept = (given.get("sweep") or {}).get("row")
    return list(given.get("rows") or {}) if swept is None else _listed(swept).split(",")


@cache
def _read(path: Path, changed: int) -> Mapping[str, Any]:
    """Read a file once; `changed` is its time, so that an edit counts."""
    loaded = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: an experiment is a mapping with {', '.join(sorted(KEYS))}")
    given = {str(key): value for key, value in loaded.items()}
    for key in given:
        if key not in KEYS | HYDRA:
            raise UserError(f"{path}: unknown key {key!r}; {', '.join(sorted(KEYS))} are known")
    return given


def as_sweep(name: str, given: Mapping[str, Any], is_group: IsGroup) -> dict[str, Any]:
    """Return the config of the experiment: a sweep over its rows and over what it crosses."""
    rows = given.get("rows") or {}
    params = {key: _listed(values) for key, values in (given.get("sweep") or {}).items()}
    if rows and "row" not in params:
        params = {"row": ",".join(f"{name}/{row}" for row in rows), **params}
    config = as_config({} if rows else given.get("all") or {}, is_group)
    if "row" in params:  # composed before the sweep, so that its fields are known
        config["defaults"].append({"override /row": params["row"].partition(",")[0]})
    config["defaults"] = [*given.get("defaults", []), *config["defaults"]]
    config["hydra"] = {"mode": "MULTIRUN", "sweeper": {"params": params}, **given.get("hydra", {})}
    return config


def row_config(given: Mapping[str, Any], row: str, is_group: IsGroup) -> dict[str, Any]:
    """Return the config of one row: the words of all rows, changed by its own."""
    return as_config({**(given.get("all") or {}), **(given["rows"][row] or {})}, is_group)


def as_config(words: Mapping[str, Any], is_group: IsGroup) -> dict[str, Any]:
    """Return words as a config file has them: group choices as overrides, fields as mappings."""
    defaults: list[Any] = []
    body: dict[str, Any] = {}
    for word, value in words.items():
        if is_group(word) and not isinstance(value, Mapping):
            defaults.append({f"override /{word}": value})
        else:
            _put(body, word.split("."), value)
    return {"defaults": defaults, **body}


def _put(body: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        body = body.setdefault(key, {})
    if isinstance(value, Mapping) and isinstance(body.get(path[-1]), dict):
        for key, item in value.items():
            _put(body[path[-1]], [str(key)], item)
    else:
        body[path[-1]] = dict(value) if isinstance(value, Mapping) else value


def _listed(values: Any) -> str:
    return ",".join(map(str, values)) if isinstance(values, list) else str(values)


def full_rows(words: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the words of a command with each row under its full name, EXPERIMENT/ROW.

    `folders` are those of the experiment files. Raises UserError with the rows there are.
    """
    experiment = _value(words, "experiment")
    changed = []
    for word in words:
        if word.startswith("row="):
            names = word.removeprefix("row=").split(",")
            word = "row=" + ",".join(_full(name, experiment, folders) for name in names)
        changed.append(word)
    return changed


def _full(row: str, experiment: str | None, folders: Sequence[Path]) -> str:
    owner, _, name = row.rpartition("/")
    owner = owner or experiment or ""
    path = next((f / f"{owner}.yaml" for f in folders if (f / f"{owner}.yaml").is_file()), None)
    if path is None:
        raise UserError(f"row={row}: name its experiment, experiment=NAME or row=NAME/{name}")
    rows = [other if "/" in other else f"{owner}/{other}" for other in rows_of(path)]
    rows += [f"{owner}/{key}" for key in read(path).get("rows") or {}]
    match = [other for other in rows if other.rpartition("/")[2] == name]
    if not match:
        names = ", ".join(dict.fromkeys(other.rpartition("/")[2] for other in rows))
        raise UserError(f"row={row}: {owner} has no such row; it has {names or 'none'}")
    return match[0]


def _value(words: Sequence[str], key: str) -> str | None:
    values = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
    return values[-1] if values else None
