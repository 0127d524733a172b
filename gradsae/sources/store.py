"""The activation store: rows of one hook site, harvested once and read by every method.

A store is a folder named by the content id of its recipe: safetensors shards, one small JSON beside
each (what `harvest` needs to go on after a kill) and meta.json, which is written last and makes the
store complete. Shards are memory-mapped, so a store may be larger than memory.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.errors import UserError
from gradsae.records.record import content_id
from gradsae.sources.corpora import SPLITS, Split
from gradsae.storage.cache import file_hash
from gradsae.storage.files import write_whole
from gradsae.storage.sealed import read_object, sealed, unsealed
from gradsae.storage.tensors import read_tensors

VERSION = 1
"""Of the harvest: goes up when the same recipe would give other rows."""

META = "meta.json"
NOTE = "weights.json"
"""Only in a store of an earlier version: the id of the weights that it was read from."""
META_KEYS = (
    *("format", "id", "recipe", "made_with", "median_norm", "mean", "mean_square_norm"),
    *SPLITS,
)

STORE_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""No float16: it ends at 65,504, and single tokens of Gemma 3 reach a norm of 88,000."""


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What shapes a store; its id is a hash of these fields."""

    weights_id: str
    model_dtype: str
    """Of the forward pass."""
    paths: Sequence[str | None]
    """Module paths that the model's configuration sets by hand."""
    corpus_id: str
    site: str
    context_length: int
    n_tokens: int
    """Training tokens read, in whole windows; the filters drop some of them."""
    n_eval_tokens: int
    dtype: str
    """Of the stored rows."""
    drop_special: bool
    """Leave out position 0 and special tokens, in both splits."""
    outlier_factor: int | float | None
    """Leave rows with a norm above this multiple of the median out of the training split."""
    seed: int
    """Of the order of documents, windows and rows."""

    def contents(self) -> dict[str, Any]:
        """Return the recipe as JSON values."""
        return {"version": VERSION, **vars(self), "paths": list(self.paths)}

    def id(self) -> str:
        return content_id(self.contents())


@final
@dataclass(frozen=True, kw_only=True)
class Shard:
    """What is known of one finished shard without opening it."""

    file: str
    bytes: int
    sha256: str
    n_rows: int
    n_special: int
    """Special positions left out (0 with drop_special=false)."""
    n_outliers: int
    """Outlier rows: left out of the training split, flagged in the evaluation split."""

    def check(self, folder: Path) -> None:
        """Raise UserError if the file is missing or differs from its size or checksum.

        The checksum is computed once in a process for each file as it then is.
        """
        path = folder / self.file
        if not path.is_file():
            raise UserError(f"activation shard {path} is missing; run again to harvest it again")
        if (n_bytes := path.stat().st_size) != self.bytes:
            raise UserError(damaged(path, f"it has {n_bytes} bytes, expected {self.bytes}"))
        digest = file_hash(path)
        if digest != self.sha256:
            problem = f"its sha256 is {digest[:12]}..., expected {self.sha256[:12]}..."
            raise UserError(damaged(path, problem))


def read_note(path: Path, keys: Sequence[str], remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file of a store, without its checksum.

    Raises UserError, naming file and remedy, if it is damaged or has not just these keys.
    """
    values = unsealed(read_object(path, remedy), path, remedy)
    if values.keys() != set(keys):
        raise UserError(f"damaged file {path}: it must hold {', '.join(keys)}; {remedy}")
    return values


def read_shard(path: Path) -> Shard:
    """Read the JSON beside a shard."""
    remedy = "delete it and run again: its shard is harvested again"
    return _shard(read_note(path, [field.name for field in fields(Shard)], remedy), path, remedy)


def _shard(values: Any, path: Path, remedy: str) -> Shard:
    """Return what a store says of one shard; UserError where that is not of the right types."""
    try:
        shard = Shard(**values)
        for name in ("bytes", "n_rows", "n_special", "n_outliers"):
            checks.whole(name, getattr(shard, name), 0)
        if Path(shard.file).name != shard.file or len(shard.sha256) != 64:
            raise ValueError(
                f"file must name one in the same folder and sha256 have 64 digits, got "
                f"{shard.file!r:.60} and {shard.sha256!r:.70}"
            )
    except (TypeError, ValueError) as error:
        raise UserError(f"damaged file {path}: {error}; {remedy}") from None
    return shard


@final
class Rows:
    """The shards of one split as one long, memory-mapped table."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._shards = [mapped(path)["rows"] for path in paths]
        sizes = torch.tensor([len(shard) for shard in self._shards], dtype=torch.int64)
        self._starts = sizes.cumsum(0) - sizes
        self._n_rows = int(sizes.sum())

    def __len__(self) -> int:
        return self._n_rows

    @property
    def d_in(self) -> int:
        return self._shards[0].shape[1]

    def gather(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_in"]:
        """Return the rows at `index` in float32, in that order."""
        shard_of = torch.searchsorted(self._starts, index, right=True) - 1
        out = torch.empty(len(index), self._shards[0].shape[1])
        for i in shard_of.unique().tolist():
            where = (shard_of == i).nonzero().squeeze(1)
            out[where] = self._shards[i][index[where] - self._starts[i]].float()
        return out


def mapped(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a shard, which are read from disk when they are used."""
    try:
        return read_tensors(path, "rows")
    except UserError as error:
        raise UserError(damaged(path, str(error).removeprefix(f"{path}: "))) from None


def damaged(path: Path, problem: str) -> str:
    """Return what a user is told of a damaged shard."""
    return (
        f"damaged activation shard {path}: {problem}. Delete it and run again: it is then "
        "harvested again, the others are kept."
    )


@final
@dataclass(frozen=True, kw_only=True)
class Store:
    """A complete store, opened for reading."""

    meta: Mapping[str, Any]
    train: Rows
    eval: Rows
    eval_outlier: Bool[Tensor, " n_eval"]
    """One flag for each row of `eval`."""

    @property
    def d_in(self) -> int:
        return len(self.meta["mean"])

    @property
    def outlier_norm(self) -> float:
        """Norm above which a token is an outlier; infinite where none is."""
        factor = self.meta["recipe"]["outlier_factor"]
        return float("inf") if factor is None else factor * self.meta["median_norm"]

    def counts(self) -> dict[str, Any]:
        """Return what a record says about these activations."""
        numbers = {key: self.meta[key] for key in ("median_norm", "mean_square_norm", "made_with")}
        return {**numbers, **{split: self.meta[split]["counts"] for split in SPLITS}}


def is_complete(folder: Path) -> bool:
    """Whether meta.json and every shard it names are there."""
    if not (folder / META).is_file():
        return False
    meta = _read_meta(folder)
    return all((folder / shard.file).is_file() for s in SPLITS for shard in meta.shards[s])


def is_of(folder: Path, weights_id: str, changed_ns: int) -> bool:
    """Return True if a store of an earlier version was read from the model of that id.

    The ids of earlier versions leave out a part of the tokenizer. A store under such an id counts
    as the model's if the tokenizer was last changed (`changed_ns`) before it was finished. That is
    asked once; from then on a note in the store says whose it is.
    """
    if not is_complete(folder):
        return False
    note = folder / NOTE
    if note.is_file():
        named = read_note(note, ["weights_id"], "delete it and run again")["weights_id"]
        return named == weights_id
    if (folder / META).stat().st_mtime_ns <= changed_ns:
        return False
    with suppress(OSError):  # a store that cannot be written is asked again
        write_whole(note, json.dumps(sealed({"weights_id": weights_id})) + "\n")
    return True


def open_store(folder: Path) -> Store:
    """Open a complete store.

    Raises UserError, naming the file, for a missing, truncated or altered one: every shard is
    compared with its checksum, once in a process.
    """
    meta = _read_meta(folder)
    paths: dict[Split, list[Path]] = {}
    for split in SPLITS:
        for shard in meta.shards[split]:
            shard.check(folder)
        paths[split] = [folder / shard.file for shard in meta.shards[split]]
    rows: dict[Split, Rows] = {split: Rows(paths[split]) for split in SPLITS}
    _check_rows(meta, rows)
    return Store(
        meta=meta.values,
        train=rows["train"],
        eval=rows["eval"],
        eval_outlier=torch.cat([mapped(path)["outlier"] for path in paths["eval"]]),
    )


class _Meta(NamedTuple):
    values: dict[str, Any]
    """As they stand in meta.json."""
    shards: dict[Split, list[Shard]]


def _read_meta(folder: Path) -> _Meta:
    path, remedy = folder / META, "delete it and run again: finished shards are kept"
    values = read_note(path, META_KEYS, remedy)
    shards: dict[Split, list[Shard]] = {}
    try:
        for split in SPLITS:
            notes = values[split]["shards"]
            shards[split] = [_shard(note, path, remedy) for note in notes]
            n_rows = values[split]["counts"]["n_rows"]
            if not notes or n_rows != sum(shard.n_rows for shard in shards[split]):
                raise ValueError(f"n_rows={n_rows!r:.40} is not that of the {split} shards")
        for name in ("median_norm", "mean_square_norm"):
            checks.number(name, values[name], low=0)
        if (factor := values["recipe"]["outlier_factor"]) is not None:
            checks.number("outlier_factor", factor, above=0)
        for number in values["mean"]:
            checks.number("mean", number)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"damaged file {path}: {error}; {remedy}") from None
    return _Meta(values, shards)


def _check_rows(meta: _Meta, rows: Mapping[Split, Rows]) -> None:
    """Raise UserError where the shards hold other rows than meta.json says."""
    for split, held in rows.items():
        expected = [sum(shard.n_rows for shard in meta.shards[split]), len(meta.values["mean"])]
        if [len(held), held.d_in] != expected:
            raise UserError(
                f"the {split} shards hold rows of shape {[len(held), held.d_in]}, {META} says "
                f"{expected}; delete the store's folder and run again"
            )
