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
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae.errors import UserError
from gradsae.records.record import content_id
from gradsae.sources.corpora import SPLITS, Split
from gradsae.storage.cache import sha256_file
from gradsae.storage.files import write_whole

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

    def check(self, folder: Path, *, trusted_before: int) -> None:
        """Raise UserError if the file differs; older ones (time in ns) are checked by size only."""
        path = folder / self.file
        if not path.is_file():
            raise UserError(f"activation shard {path} is missing; run again to harvest it again")
        stat = path.stat()
        if stat.st_size != self.bytes:
            problem = f"it has {stat.st_size} bytes, expected {self.bytes}"
        elif stat.st_mtime_ns >= trusted_before and (sha256 := sha256_file(path)) != self.sha256:
            problem = f"its sha256 is {sha256[:12]}..., expected {self.sha256[:12]}..."
        else:
            return
        raise UserError(damaged(path, problem))


def read_json(path: Path, keys: Sequence[str], remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises UserError, naming file and remedy, if it cannot be read or has not just these keys.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); {remedy}") from None
    if not isinstance(value, dict) or value.keys() != set(keys):
        raise UserError(f"damaged file {path}: it must hold {', '.join(keys)}; {remedy}")
    return value


def read_shard(path: Path) -> Shard:
    """Read the JSON beside a shard."""
    keys = [field.name for field in fields(Shard)]
    return Shard(**read_json(path, keys, "delete it and run again: its shard is harvested again"))


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
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(damaged(path, str(error))) from None


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
    return all((folder / shard["file"]).is_file() for s in SPLITS for shard in meta[s]["shards"])


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
        return (
            read_json(note, ["weights_id"], "delete it and run again")["weights_id"] == weights_id
        )
    if (folder / META).stat().st_mtime_ns <= changed_ns:
        return False
    with suppress(OSError):  # a store that cannot be written is asked again
        write_whole(note, json.dumps({"weights_id": weights_id}) + "\n")
    return True


def open_store(folder: Path) -> Store:
    """Open a complete store.

    Raises UserError, naming the file, for a missing, truncated or altered one. A shard that was
    last written before meta.json is checked by its size, any other by its sha256.
    """
    meta = _read_meta(folder)
    finished = (folder / META).stat().st_mtime_ns
    paths: dict[Split, list[Path]] = {}
    for split in SPLITS:
        shards = [Shard(**shard) for shard in meta[split]["shards"]]
        for shard in shards:
            shard.check(folder, trusted_before=finished)
        paths[split] = [folder / shard.file for shard in shards]
    return Store(
        meta=meta,
        train=Rows(paths["train"]),
        eval=Rows(paths["eval"]),
        eval_outlier=torch.cat([mapped(path)["outlier"] for path in paths["eval"]]),
    )


def _read_meta(folder: Path) -> dict[str, Any]:
    return read_json(folder / META, META_KEYS, "delete it and run again: finished shards are kept")
