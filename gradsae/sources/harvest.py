"""Fill an activation store: read one hook site over many windows, shard by shard.

A shard is a fixed set of windows and is written whole or not at all, so a killed harvest goes on
where it stopped and ends with the same bytes. One process harvests a store; others wait for it.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from gradsae import checks
from gradsae.errors import UserError
from gradsae.lm.model import LM
from gradsae.lm.sites import Site
from gradsae.seeds import make_generator
from gradsae.sources.corpora import SPLITS, Split
from gradsae.sources.store import (
    META,
    STORE_DTYPES,
    Recipe,
    Shard,
    is_complete,
    mapped,
    read_note,
    read_shard,
)
from gradsae.storage.files import PARTIAL, check_writable, replacing, write_whole, writing_below
from gradsae.storage.lease import working_alone
from gradsae.storage.sealed import sealed

SHARD_TOKENS = 32_768
"""Tokens read for one shard: what a kill can cost (13 s at 2,600 tokens/s)."""
REMEDY = "delete it and run again"
CALIBRATION_WINDOWS = 64
"""First training windows, whose median norm decides what an outlier is."""


class Part(NamedTuple):
    """The windows of one shard."""

    split: Split
    name: str
    windows: Int[Tensor, "n_windows pos"]


class Batch(NamedTuple):
    """Activations of some windows, one row a token."""

    x: Float[Tensor, "tokens d_in"]
    """In the model's dtype."""
    special: Bool[Tensor, " tokens"]
    norm: Float[Tensor, " tokens"]


class ShardRows(NamedTuple):
    """What is stored of one shard, in the order it was read."""

    rows: Float[Tensor, "n_rows d_in"]
    """In the store's dtype."""
    outlier: Bool[Tensor, " n_rows"]
    n_special: int
    n_outliers: int


@final
@dataclass(frozen=True, kw_only=True)
class Harvest:
    """One harvest: what is read, how it is filtered, where it goes."""

    folder: Path
    recipe: Recipe
    lm: LM
    site: Site
    windows: Mapping[Split, Int[Tensor, "_ pos"]]
    batch_windows: int
    """Windows in one forward pass."""
    _calibration: dict[bytes, Batch] = field(default_factory=dict, repr=False)
    """Batches that were read for the median norm, by their token ids: not read twice."""

    def run(self) -> None:
        """Write what the store lacks, then meta.json.

        Raises UserError: too little disk, a folder that cannot be written, a damaged shard,
        activations that are not finite. Shards that are finished stay.
        """
        check_writable(self.folder)
        with writing_below(self.folder, "activations"), working_alone(self.folder / ".lock"):
            _remove_partial(self.folder)  # of a process that was killed
            if is_complete(self.folder):
                return
            parts = [part for split in SPLITS for part in self._parts(split)]
            shards = {part.name: shard for part in parts if (shard := self._finished(part))}
            missing = [part for part in parts if part.name not in shards]
            self._check_space(missing)
            with self._bar(parts, missing) as bar:
                median = self._median_norm()
                shards |= self._write(missing, median, bar)
            self._finish(parts, shards, median)

    def _parts(self, split: Split) -> list[Part]:
        windows = self.windows[split]
        n_windows = max(1, SHARD_TOKENS // windows.shape[1])
        chunks = windows.split(n_windows)
        return [Part(split, f"{split}-{i:05d}", chunk) for i, chunk in enumerate(chunks)]

    def _finished(self, part: Part) -> Shard | None:
        """Return the part's shard if it was written before; raise UserError if it is damaged."""
        note = self.folder / f"{part.name}.json"
        if not note.is_file() or not (self.folder / f"{part.name}.safetensors").is_file():
            return None
        shard = read_shard(note)
        shard.check(self.folder)
        return shard

    def _check_space(self, missing: Sequence[Part]) -> None:
        size = STORE_DTYPES[self.recipe.dtype].itemsize
        needed = sum(part.windows.numel() for part in missing) * self.lm.d_model * size
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"the activations need {needed / 1e6:,.3g} MB, but {self.folder} has "
                f"{free / 1e6:,.3g} MB free: make room, take another folder (results=), or read "
                "fewer tokens (source.n_tokens)"
            )

    def _bar(self, parts: Sequence[Part], missing: Sequence[Part]) -> tqdm:
        total = sum(part.windows.numel() for part in parts)
        return tqdm(
            desc=f"harvest {self.lm.name} {self.site}",
            total=total,
            initial=total - sum(part.windows.numel() for part in missing),
            unit="tok",
            unit_scale=True,
            disable=None,
        )

    def _median_norm(self) -> float:
        """Return the median norm over the first training windows, special positions left out."""
        path = self.folder / "calibration.json"
        if not path.is_file():
            windows = self.windows["train"][:CALIBRATION_WINDOWS].split(self.batch_windows)
            batches = [self._read(token_ids) for token_ids in windows]
            self._calibration.update(zip(map(_key, windows), batches, strict=True))
            median = torch.cat([batch.norm[~batch.special] for batch in batches]).median()
            write_whole(path, json.dumps(sealed({"median_norm": median.item()})) + "\n")
        median_norm = read_note(path, ["median_norm"], REMEDY)["median_norm"]
        try:
            checks.number("median_norm", median_norm, above=0)
        except ValueError as error:
            raise UserError(f"damaged file {path}: {error}; {REMEDY}") from None
        return float(median_norm)

    def _read(self, token_ids: Int[Tensor, "n_windows pos"]) -> Batch:
        x = self.lm.read(self.site, token_ids.to(self.lm.device)).cpu().flatten(0, 1)
        norm = x.float().norm(dim=1)
        # The norms are the cheaper test; one that overflowed needs the long way.
        if not norm.isfinite().all() and not x.isfinite().all():
            raise UserError(
                f"{self.lm.name} has activations at {self.site} that are not finite with "
                f"model.dtype={self.recipe.model_dtype}: take a wider type, or an earlier site"
            )
        return Batch(x, self.lm.special_positions(token_ids).flatten(), norm)

    def _write(self, parts: Sequence[Part], median: float, bar: tqdm) -> dict[str, Shard]:
        """Harvest the shards; one thread writes a shard while the next is read."""
        saved: list[Future[Shard]] = []
        with ThreadPoolExecutor(1) as writer:
            for part in parts:
                content = self._read_shard_rows(part, median, bar)
                if saved:
                    saved[-1].result()  # raises what went wrong; no third shard is held in memory
                saved.append(writer.submit(self._save, part.name, content))
        return {part.name: future.result() for part, future in zip(parts, saved, strict=True)}

    def _read_shard_rows(self, part: Part, median: float, bar: tqdm) -> ShardRows:
        """Read and filter the rows of one shard."""
        factor = self.recipe.outlier_factor
        limit = float("inf") if factor is None else factor * median
        rows: list[Tensor] = []
        flags: list[Tensor] = []
        n_special = n_outliers = 0
        for token_ids in part.windows.split(self.batch_windows):
            batch = self._calibration.pop(_key(token_ids), None) or self._read(token_ids)
            keep = ~batch.special if self.recipe.drop_special else torch.ones_like(batch.special)
            outlier = keep & (batch.norm > limit)
            n_special += int((~keep).sum())
            n_outliers += int(outlier.sum())
            if part.split == "train":
                keep &= ~outlier
            rows.append(batch.x[keep].to(STORE_DTYPES[self.recipe.dtype]))
            flags.append(outlier[keep])
            bar.update(len(batch.x))
        return ShardRows(torch.cat(rows), torch.cat(flags), n_special, n_outliers)

    def _save(self, name: str, content: ShardRows) -> Shard:
        """Write the rows in random order, then the JSON that makes the shard count as finished."""
        from safetensors.torch import save

        rows, outlier, n_special, n_outliers = content
        generator = make_generator(self.recipe.seed, f"world/{name}")
        order = torch.randperm(len(rows), generator=generator)
        data = save({"rows": rows[order], "outlier": outlier[order], **_totals(rows)})
        shard = Shard(
            file=f"{name}.safetensors",
            bytes=len(data),
            sha256=sha256(data).hexdigest(),
            n_rows=len(rows),
            n_special=n_special,
            n_outliers=n_outliers,
        )
        with replacing(self.folder / shard.file) as fresh:
            fresh.write_bytes(data)
        write_whole(self.folder / f"{name}.json", json.dumps(sealed(asdict(shard))) + "\n")
        return shard

    def _finish(self, parts: Sequence[Part], shards: Mapping[str, Shard], median: float) -> None:
        """Write meta.json, which makes the store complete."""
        own = {split: [shards[p.name] for p in parts if p.split == split] for split in SPLITS}
        meta = {
            "format": 1,
            "id": self.recipe.id(),
            "recipe": self.recipe.contents(),
            "made_with": {  # what the last bits of the rows depend on, too
                "device": self.lm.device.type,
                "n_threads": torch.get_num_threads(),
                "batch_windows": self.batch_windows,
            },
            "median_norm": median,
            **self._means(own["train"]),
        }
        for split in SPLITS:
            counts = {"n_tokens": self.windows[split].numel()}
            for name in ("n_rows", "n_special", "n_outliers"):
                counts[name] = sum(getattr(shard, name) for shard in own[split])
            if counts["n_rows"] == 0:
                raise UserError(
                    f"no {split} rows are left: of {counts['n_tokens']} tokens, "
                    f"{counts['n_special']} are special (source.drop_special) and "
                    f"{counts['n_outliers']} have outlying norms (source.outlier_factor)"
                )
            meta[split] = {"counts": counts, "shards": [asdict(shard) for shard in own[split]]}
        write_whole(self.folder / META, json.dumps(sealed(meta), indent=1) + "\n")

    def _means(self, shards: Sequence[Shard]) -> dict[str, Any]:
        """Return mean and mean squared norm of the stored training rows."""
        tables = [mapped(self.folder / shard.file) for shard in shards]
        n_rows = max(1, sum(shard.n_rows for shard in shards))
        total = torch.stack([table["total"] for table in tables]).sum(0)
        total_square = torch.stack([table["total_square"] for table in tables]).sum()
        return {
            "mean": (total / n_rows).tolist(),
            "mean_square_norm": total_square.item() / n_rows,
        }


def _totals(rows: Float[Tensor, "n_rows d_in"]) -> dict[str, Tensor]:
    """Return the sum of the rows and of their squared norms, in float64."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    total_square = torch.zeros(1, dtype=torch.float64)
    for block in rows.split(4096):  # a few MB of float64 at a time
        exact = block.double()
        total += exact.sum(0)
        total_square += exact.square().sum()
    return {"total": total, "total_square": total_square}


def _key(token_ids: Int[Tensor, "n_windows pos"]) -> bytes:
    return token_ids.numpy().tobytes()


def _remove_partial(folder: Path) -> None:
    """Delete the unfinished files of a store; nobody else works on it, so they are nobody's."""
    for partial in folder.glob(f"[!.]*{PARTIAL}"):  # a process that waits makes one for its lease
        partial.unlink()
