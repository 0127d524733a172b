"""One hook site of a language model, read over a corpus and stored once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, final, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.interfaces import HeldOut, ModelSource
from gradsae.lm.model import LM, load
from gradsae.lm.sites import Site, SiteKind
from gradsae.lm.spec import LanguageModel, plain
from gradsae.seeds import make_generator
from gradsae.sources.corpora import SPLITS, Corpus, Split
from gradsae.sources.harvest import Harvest
from gradsae.sources.store import STORE_DTYPES, Recipe, Store, is_complete, is_of, open_store
from gradsae.sources.streams import ShuffledStream
from gradsae.sources.windows import draw_windows
from gradsae.storage.cache import cache_root


@final
@dataclass(frozen=True, kw_only=True)
class LmLayer(ModelSource):
    """Activations of one site of one layer, harvested on first use and shared by every method.

    Special positions are dropped everywhere. Outlier tokens are dropped from training and flagged
    in held-out rows: on prose, 0.01 % of the tokens own most of the variance of SmolLM2.
    """

    name: ClassVar[str] = "lm_layer"

    model: LanguageModel
    corpus: Corpus
    layer: int
    """Block index from 0."""
    site_kind: SiteKind = "resid_post"
    """`resid_post` (residual stream after the block), `mlp_out` or `attn_out`."""
    context_length: int = 128
    """Tokens in a window; windows never span two documents."""
    n_tokens: int = 200_000
    """Training tokens read, in whole windows; the filters drop some of them."""
    n_eval_tokens: int = 20_000
    """The same, of documents held out for evaluation."""
    read_dtype: Literal["model", "auto", "float32", "bfloat16"] = "model"
    """Of the forward pass that fills the store. `auto` is bfloat16 where the hardware multiplies
    it (3 times as fast on such a CPU; activations differ by about 1 %), else float32."""
    store_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """bfloat16 rounds by 0.2 % (FVU of the order of 1e-6) and halves the disk."""
    drop_special: bool = True
    """Leave out position 0 and special tokens."""
    outlier_factor: int | float | None = 10.0
    """A token is an outlier above this multiple of the median norm; None for no outliers."""
    seed: int = 0
    """Fixes which windows are read, and the order of the stored rows."""
    batch_windows: int = 8
    """Windows in one forward pass of the harvest. Does not count for the id, like the two below."""
    device: str = "auto"
    """Of the language model: auto takes CUDA where there is one."""
    root: str = field(default_factory=lambda: str(cache_root() / "activations"))
    """Folder of all stores; by default in the user's cache."""

    def __post_init__(self) -> None:
        checks.one_of("site_kind", self.site_kind, get_args(SiteKind))
        checks.whole("layer", self.layer, 0)
        checks.whole("context_length", self.context_length, 2)
        for name in ("n_tokens", "n_eval_tokens"):
            checks.whole(name, getattr(self, name), self.context_length)
        checks.one_of("read_dtype", self.read_dtype, ("model", "auto", "float32", "bfloat16"))
        checks.one_of("store_dtype", self.store_dtype, tuple(STORE_DTYPES))
        checks.flag("drop_special", self.drop_special)
        if self.outlier_factor is not None:
            checks.number("outlier_factor", self.outlier_factor, above=0)
        checks.whole("seed", self.seed, 0)
        checks.whole("batch_windows", self.batch_windows, 1)

    @property
    def about(self) -> About:
        return About(label=f"{self.model.name}, {self.site()}, {self.corpus.name}")

    @property
    def d_in(self) -> int:
        return self._store.d_in

    def prepare(self) -> None:
        _ = self._store  # harvested now, if it is not there

    def stream(self, batch_size: int, seed: int, device: torch.device) -> ShuffledStream:
        rows = self._store.train
        return ShuffledStream(rows.gather, len(rows), batch_size, seed, device)

    def held_out(self, n: int, seed: int) -> HeldOut:
        rows = self._store.eval
        chosen = torch.randperm(len(rows), generator=make_generator(seed, "eval/rows"))[:n]
        return HeldOut(rows.gather(chosen), outlier=self._store.eval_outlier[chosen])

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, **self._recipe.contents()}

    def provenance(self) -> dict[str, Any]:
        return {
            "model": self.model.provenance(),
            "corpus": self.corpus.provenance(),
            "activations": {"id": self.activations_id(), **self._store.counts()},
        }

    def lm(self) -> LM:
        fields, weights = json.dumps(plain(vars(self.model))), self.model.weights_id()
        return _loaded(fields, weights, self._device())

    def site(self) -> Site:
        return Site(self.site_kind, self.layer)

    def names(self) -> dict[str, dict[str, str]]:
        model = {"name": self.model.name}
        if self.model.dtype != "float32":  # of the passes that a task runs, not of the store
            model["dtype"] = self.model.dtype
        return {"model": model, "corpus": {"name": self.corpus.name}}

    def activations_id(self) -> str:
        return self._recipe.id()

    def eval_windows(self, n: int, seed: int) -> Sequence[Int[Tensor, " pos"]]:
        return list(self._windows("eval", n, make_generator(seed, "eval/windows")))

    def dropped(
        self, token_ids: Int[Tensor, "batch pos"], acts: Float[Tensor, "batch pos d_in"]
    ) -> Bool[Tensor, "batch pos"]:
        outlier = acts.float().norm(dim=-1) > self._store.outlier_norm
        if not self.drop_special:
            return outlier
        return outlier | self.lm().special_positions(token_ids).to(acts.device)

    @cached_property
    def _recipe(self) -> Recipe:
        """What shapes the store, under the id of the weights.

        Where a store of an earlier version stands, it goes under the id that it had: then its
        checkpoints and records are found too.
        """
        recipe = self._recipe_of(self.model.weights_id())
        if (name := self.model.former_weights_id()) is None or self._folder(recipe).exists():
            return recipe
        former, changed = self._recipe_of(name), self.model.tokenizer_changed_ns()
        return former if is_of(self._folder(former), recipe.weights_id, changed) else recipe

    def _folder(self, recipe: Recipe) -> Path:
        return Path(self.root) / recipe.id()

    def _recipe_of(self, weights_id: str) -> Recipe:
        return Recipe(
            weights_id=weights_id,
            model_dtype=self._reader().dtype,
            paths=[self.model.block_path, self.model.attn_path, self.model.mlp_path],
            corpus_id=self.corpus.corpus_id(),
            site=str(self.site()),
            context_length=self.context_length,
            n_tokens=self.n_tokens,
            n_eval_tokens=self.n_eval_tokens,
            dtype=self.store_dtype,
            drop_special=self.drop_special,
            outlier_factor=self.outlier_factor,
            seed=self.seed,
        )

    @cached_property
    def _store(self) -> Store:
        """The opened store; harvested now if it is not there, which takes a while."""
        folder = self._folder(self._recipe)
        if not is_complete(folder):
            self._harvest(folder)
        return open_store(folder)

    def _reader(self) -> LanguageModel:
        """Return the model as it reads the store: other precision, same weights."""
        if self.read_dtype == "model":
            return self.model
        auto = "bfloat16" if multiplies_bfloat16(self._device()) else "float32"
        return replace(self.model, dtype=auto if self.read_dtype == "auto" else self.read_dtype)

    def _harvest(self, folder: Path) -> None:
        reader = self._reader()
        lm = self.lm() if reader == self.model else load(reader, self._device())
        lm.check_site(self.site())
        n_tokens: dict[Split, int] = {"train": self.n_tokens, "eval": self.n_eval_tokens}
        windows: dict[Split, Tensor] = {
            split: self._windows(
                split,
                n_tokens[split] // self.context_length,
                make_generator(self.seed, f"world/{split}"),
            )
            for split in SPLITS
        }
        Harvest(
            folder=folder,
            recipe=self._recipe,
            lm=lm,
            site=self.site(),
            windows=windows,
            batch_windows=self.batch_windows,
        ).run()

    def _windows(self, split: Split, n: int, generator: torch.Generator) -> Int[Tensor, "n pos"]:
        return draw_windows(self.lm(), self.corpus, split, n, self.context_length, generator)

    def _device(self) -> str:
        return str(checks.device(self.device))


def multiplies_bfloat16(device: str) -> bool:
    """True where bfloat16 products are faster than float32 ones."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


@lru_cache(maxsize=1)
def _loaded(fields: str, weights_id: str, device: str) -> LM:
    """Load a model once a process, and again where its files have changed since.

    Its fields come as JSON because mappings cannot be hashed.
    """
    return load(LanguageModel(**json.loads(fields)), device)
