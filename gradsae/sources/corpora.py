"""Texts: named corpora of whole documents, built once, split into train and eval by document hash.

A corpus is held as two `datasets` data sets (columns id and text) in the user's cache and read
offline from there. A document goes to the same split on every machine, whatever else the corpus
holds: the split looks at nothing but the sha256 of its text, which is also its id.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, final

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from gradsae.errors import UserError
from gradsae.storage.cache import cache_root, cached_folder, check_folder, sha256_text
from gradsae.storage.fetch import Wheel, fetch_wheel, wheel_from
from gradsae.storage.files import cannot_write, expanded, unwritable

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = 1
"""Version of how documents are chosen and split; part of every corpus id."""

Split = Literal["train", "eval"]
SPLITS: tuple[Split, ...] = ("train", "eval")

# What each source needs.
NEEDED = {"wheel": "wheel", "folder": "folder", "hub": "hub_id", "texts": "texts"}


@final
@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents of one kind; the fields that `source` does not need stay empty."""

    name: str
    """Short name for records and cache folders."""
    source: str
    """wheel, folder, hub or texts."""
    licence: str
    eval_percent: int = 10
    """Share of the documents kept for evaluation, by hash."""
    min_chars: int = 200
    """Shorter documents are left out."""

    wheel: Mapping[str, Any] | None = None
    """Fields of `gradsae.storage.fetch.Wheel`; every member is one document."""
    exclude: Sequence[str] = ()
    """Glob patterns of members or files to leave out; `*` also matches `/`."""
    folder: str | None = None
    """Every file in it that matches `pattern` is one document, in UTF-8."""
    pattern: str = "**/*.txt"
    hub_id: str | None = None
    hub_config: str | None = None
    hub_split: str = "train"
    text_column: str = "text"
    revision: str | None = None
    """Commit of the hub data set, which makes it repeatable."""
    n_documents: int | None = None
    """The first so many of a hub data set, read as a stream; all of them if empty."""
    texts: Sequence[str] | None = None
    """The documents themselves, for tests."""

    def __post_init__(self) -> None:
        if self.source not in NEEDED:
            raise UserError(f"source must be one of {', '.join(NEEDED)}, got {self.source!r}")
        if not getattr(self, NEEDED[self.source]):
            raise UserError(f"corpus {self.name}: source={self.source} needs {NEEDED[self.source]}")
        if not 0 < self.eval_percent < 100:
            raise UserError(f"eval_percent must be between 1 and 99, got {self.eval_percent}")
        if self.min_chars < 1:
            raise UserError(f"min_chars must be at least 1, got {self.min_chars}")
        if self.n_documents is not None and self.n_documents < 1:
            raise UserError(f"n_documents must be at least 1 or empty, got {self.n_documents}")
        if self.source == "wheel":
            self._pinned()

    def corpus_id(self) -> str:
        """Content id of the documents and their split, the same on every machine.

        A wheel's needs no download, as its checksum is pinned; a folder's and a hub data set's
        come from the documents themselves, a folder's and given texts' also from their order.
        """
        if self.source == "wheel":
            wheel = self._pinned()
            content = "/".join(["wheel", wheel.sha256, *wheel.members, "but", *self.exclude])
            if content.split("/").count("but") > 1:  # it would not say where the members end
                content = json.dumps([wheel.sha256, list(wheel.members), list(self.exclude)])
        elif self.source == "hub":
            content = self._built()[1]["made_from"]["ids"]
        else:
            ids = list(self._collect())
            former = self._id_of(_ids_hash(ids))
            if ids == sorted(ids) or self._is_built(former, ids):
                return former
            content = sha256_text("\n".join(["in order", *ids]))
        return self._id_of(content)

    def _id_of(self, content: str) -> str:
        rules = f"{FORMAT}/{self.eval_percent}/{self.min_chars}"
        return f"{self.source}:{sha256_text(f'{rules}/{content}')}"

    def _is_built(self, corpus_id: str, ids: Sequence[str]) -> bool:
        """Return True if the cache holds these documents in this order under an id.

        The ids of earlier versions leave out the order, which decides what windows are drawn.
        """
        from datasets import load_from_disk

        folder = self._folder(corpus_id.partition(":")[2])
        if not folder.exists():
            return False
        check_folder(folder, verify=True)
        with _quiet_unless_terminal():
            built: list[Any] = [load_from_disk(str(folder / split)) for split in SPLITS]
        wanted = [[i for i in ids if split_of(i, self.eval_percent) == s] for s in SPLITS]
        return [list(data["id"]) for data in built] == wanted

    def documents(self, split: Split) -> "Dataset":
        """Return the data set of one split: columns id (sha256 of the text) and text.

        Raises UserError: cannot be fetched, no documents, a damaged cache folder.
        """
        from datasets import load_from_disk

        with _quiet_unless_terminal():
            data: Any = load_from_disk(str(self._built()[0] / split))
        return data

    def provenance(self) -> dict[str, Any]:
        """What a record says about the texts: JSON values, no path of this machine."""
        origin = {
            "wheel": self._pinned().requirement if self.source == "wheel" else "",
            "folder": Path(self.folder or "").name,
            "hub": f"{self.hub_id}/{self.hub_config or 'default'}/{self.hub_split}",
            "texts": f"{len(self.texts or ())} texts in the configuration",
        }
        made_from = self._built()[1]["made_from"]
        return {
            "name": self.name,
            "source": self.source,
            "origin": origin[self.source],
            "corpus_id": self.corpus_id(),
            "licence": self.licence,
            "n_documents": {split: made_from[split] for split in SPLITS},
            "n_bytes": made_from["n_bytes"],
            "eval_percent": self.eval_percent,
            **({"revision": self.revision} if self.source == "hub" else {}),
        }

    def _built(self) -> tuple[Path, dict[str, Any]]:
        """The cache folder and its manifest; made on the first call."""
        if self.source == "hub":
            fields = (self.hub_id, self.hub_config, self.hub_split, self.revision)
            rules = (*fields, self.text_column, self.n_documents, self.eval_percent, self.min_chars)
            key = sha256_text(f"{FORMAT}/{rules}")
        else:
            key = self.corpus_id().partition(":")[2]
        folder = self._folder(key)
        return folder, cached_folder(folder, self._save, verify=self.source != "hub")

    def _folder(self, key: str) -> Path:
        return cache_root() / "corpora" / f"{self.name}-{key[:12]}"

    def _save(self, folder: Path) -> dict[str, Any]:
        """Write both splits; return what the manifest keeps."""
        from datasets import Dataset

        texts = self._collect()
        counts: dict[str, Any] = {}
        for split in SPLITS:
            chosen = {i: t for i, t in texts.items() if split_of(i, self.eval_percent) == split}
            if not chosen:
                raise UserError(
                    f"corpus {self.name}: no document of {len(texts)} falls into the {split} "
                    f"split; it needs more documents, or another eval_percent than "
                    f"{self.eval_percent}"
                )
            counts[split] = len(chosen)
            with _quiet_unless_terminal():
                data = Dataset.from_dict({"id": list(chosen), "text": list(chosen.values())})
                data.save_to_disk(str(folder / split))
        n_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts.values())
        return {"corpus": self.name, "ids": _ids_hash(texts), "n_bytes": n_bytes, **counts}

    def _collect(self) -> dict[str, str]:
        """Texts by id, in a fixed order, without short ones and repetitions."""
        match self.source:
            case "wheel":
                documents = self._read_files(fetch_wheel(self._pinned(), verify=True), "**/*")
            case "folder":
                folder = expanded(self.folder or "")
                if not folder.is_dir():
                    raise UserError(f"corpus {self.name}: there is no folder {folder}")
                documents = self._read_files(folder, self.pattern)
            case "hub":
                documents = self._stream_hub()
            case _:
                documents = iter(self.texts or ())
        texts = {sha256_text(text): text for text in documents if len(text) >= self.min_chars}
        if not texts:
            raise UserError(
                f"corpus {self.name}: it holds no document of min_chars={self.min_chars} "
                f"characters ({self._where()}): lower min_chars, or name other texts"
            )
        return texts

    def _where(self) -> str:
        """Return where the texts were looked for, for a message."""
        folder = f"{self.folder}/{self.pattern}"
        return {"folder": folder, "hub": str(self.hub_id)}.get(self.source, "its texts")

    def _read_files(self, folder: Path, pattern: str) -> Iterator[str]:
        for file in sorted(folder.glob(pattern)):
            name = file.relative_to(folder).as_posix()
            left_out = name == "manifest.json" or any(fnmatchcase(name, p) for p in self.exclude)
            if file.is_file() and not left_out:
                try:
                    yield file.read_text(encoding="utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(f"corpus {self.name}: {file} is not UTF-8: {error}") from error

    def _stream_hub(self) -> Iterator[str]:
        from datasets import load_dataset

        try:
            stream = load_dataset(
                self.hub_id or "",
                self.hub_config,
                split=self.hub_split,
                revision=self.revision,
                streaming=True,
            )
            stream = stream if self.n_documents is None else stream.take(self.n_documents)
            for row in tqdm(stream, self.name, self.n_documents, unit="doc", disable=None):
                yield row[self.text_column]
        except KeyError as error:
            raise UserError(f"corpus {self.name}: there is no column {error}") from error
        except (OSError, ValueError) as error:
            if unwritable(error):
                from huggingface_hub.constants import HF_HOME

                raise cannot_write(Path(HF_HOME), error, setting="HF_HOME") from error
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(
                f"cannot read the data set {self.hub_id} ({self.hub_config or 'default'}, "
                f"{self.hub_split}): {reason.rstrip('.')}. Check its names and the network."
            ) from error

    def _pinned(self) -> Wheel:
        return wheel_from(self.wheel or {})


def split_of(document_id: str, eval_percent: int) -> Split:
    """Return the split of a document from its hash alone."""
    return "eval" if int(document_id[:8], 16) % 100 < eval_percent else "train"


class Window(NamedTuple):
    """Consecutive tokens of one document."""

    document: int
    """Index of the document in the order given."""
    tokens: Int[np.ndarray, " pos"]


def pack(
    documents: Sequence[str],
    tokenize: Callable[[str], Sequence[int]],
    context_length: int,
    *,
    prefix: Sequence[int] = (),
    min_tokens: int = 16,
) -> Iterator[Window]:
    """Cut documents into windows of at most `context_length` tokens; none holds two documents.

    `tokenize` must add no special tokens; `prefix` (the model's own, `lm.prefix_ids`) goes before
    every window instead. The last piece of a document is kept if it has `min_tokens` of its own.
    """
    room = context_length - len(prefix)
    if room < 1:
        raise UserError(
            f"context_length={context_length} leaves no room for text: the model's tokenizer puts "
            f"{len(prefix)} tokens before each window, so it must be larger than that"
        )
    for index, text in enumerate(documents):
        ids = list(tokenize(text))
        for start in range(0, len(ids), room):
            piece = ids[start : start + room]
            if len(piece) == room or len(piece) >= min_tokens:
                yield Window(index, np.array([*prefix, *piece], dtype=np.int64))


def _ids_hash(ids: Iterable[str]) -> str:
    return sha256_text("\n".join(sorted(ids)))


@contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """Hide the progress bars of datasets where stderr is not a terminal."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    was_off = are_progress_bars_disabled()
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        if not was_off:
            enable_progress_bars()
