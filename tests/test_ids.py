"""Ids: what changes the content changes the id, what does not leaves it, and old work is found."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from benchmarks.places import CONF
from gradsae.about import plain
from gradsae.bench.cell import Cell, build
from gradsae.lm.loading import load_parts
from gradsae.lm.spec import LanguageModel
from gradsae.optim import Optim
from gradsae.records.provenance import provenance
from gradsae.records.record import Record, save
from gradsae.seeds import Seeds
from gradsae.sources.corpora import Corpus
from gradsae.sources.lm_layer import LmLayer
from gradsae.sources.store import META, NOTE
from gradsae.sources.superposition import Superposition
from gradsae.storage.cache import file_hash
from gradsae.trainers.topk import TopK
from gradsae.training.checkpoints import Request
from gradsae.training.fit import FitSettings

CONFIG = {
    "model_type": "llama",
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64},
}
TEXTS = [f"Text number {i} of a small corpus, long enough for a window or two." for i in range(12)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADSAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder of random weights."""
    folder = tmp_path_factory.mktemp("saved")
    parts = load_parts(LanguageModel(name="t", source="random", licence="none", config=CONFIG))
    parts.model.save_pretrained(folder)
    parts.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def spec(folder: Path) -> LanguageModel:
    return LanguageModel(name="mine", source="folder", licence="MIT", folder=str(folder))


def layer(folder: Path, **changes: Any) -> LmLayer:
    corpus = Corpus(
        name="small", source="texts", licence="CC0", texts=TEXTS, min_chars=10, eval_percent=30
    )
    fields = {"model": spec(folder), "corpus": corpus, "layer": 0, "context_length": 16}
    return LmLayer(**{**fields, "n_tokens": 160, "n_eval_tokens": 32, **changes})


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    """Return a change of values in a JSON file."""

    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, **changes}))

    return change


def put(name: str, text: str = "new") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def flip_a_bit(folder: Path) -> None:
    """Change one bit of the weights; size and modification time stay as they were."""
    file = folder / "model.safetensors"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def turn_keys(folder: Path) -> None:
    for file in folder.glob("*.json"):
        values = json.loads(file.read_text())
        file.write_text(json.dumps(dict(reversed(values.items())), indent=3))


def touch(folder: Path) -> None:
    for file in folder.iterdir():
        os.utime(file, (1e9, 1e9))


@pytest.mark.parametrize(
    "change",
    [
        flip_a_bit,
        edit("config.json", rms_norm_eps=1e-3),
        edit("tokenizer.json", truncation={"max_length": 3}),
        edit("tokenizer_config.json", add_prefix_space=True),
        edit("tokenizer_config.json", eos_token="a"),
        put("special_tokens_map.json", '{"bos_token": "a"}'),
        put("added_tokens.json", '{"<new>": 257}'),
        *(put(name) for name in ("vocab.json", "vocab.txt", "merges.txt", "tekken.json")),
        *(put(name) for name in ("tokenizer.model", "spiece.model", "source.spm", "bpe.codes")),
        put("chat_template.jinja"),
    ],
)
def test_whatever_model_or_tokenizer_read_changes_the_id_of_a_folder(folder, change):
    before = spec(folder).weights_id()
    change(folder)
    assert spec(folder).weights_id() != before


@pytest.mark.parametrize(
    "change",
    [
        touch,
        turn_keys,
        *(put(name) for name in ("README.md", "LICENSE.txt", "pytorch_model.bin", "notes.json")),
        put("generation_config.json", "{}"),
    ],
)
def test_what_neither_of_them_reads_leaves_the_id_of_a_folder(folder, change):
    before = spec(folder).weights_id()
    change(folder)
    assert spec(folder).weights_id() == before


def test_a_changed_folder_is_loaded_again_in_the_same_process(folder):
    before = layer(folder).lm()
    assert layer(folder).lm() is before
    edit("tokenizer_config.json", eos_token="a")(folder)
    assert layer(folder).lm().tokenizer.eos_token == "a"
    assert layer(folder).lm() is not before


@pytest.fixture
def former(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store that an earlier version harvested; returns its id."""
    with monkeypatch.context() as earlier:
        earlier.setattr(LanguageModel, "weights_id", LanguageModel.former_weights_id)
        source = layer(folder)
        source.prepare()
        return source.activations_id()


def test_a_store_of_an_earlier_version_is_found_with_all_that_was_made_from_it(folder, former):
    source = layer(folder)
    assert source.activations_id() == former
    assert source.identity()["weights_id"] == spec(folder).former_weights_id()
    assert layer(folder, n_tokens=176).activations_id() != former


@pytest.mark.parametrize("seen", [True, False], ids=["opened since", "not opened since"])
def test_a_store_of_an_earlier_version_is_not_served_for_another_tokenizer(folder, former, seen):
    if seen:
        assert layer(folder).activations_id() == former
    edit("tokenizer_config.json", eos_token="a")(folder)
    source = layer(folder)
    assert source.activations_id() != former
    assert source.identity()["weights_id"] == spec(folder).weights_id()
    edit("tokenizer_config.json", eos_token="<|end|>")(folder)
    assert (layer(folder).activations_id() == former) == seen


def test_a_store_of_an_earlier_version_is_asked_by_time_only_once(folder, former, cache):
    store = cache / "activations" / former
    touch(folder)
    assert layer(folder).activations_id() == former
    assert json.loads((store / NOTE).read_text())["weights_id"] == spec(folder).weights_id()
    os.utime(store / META, (1e8, 1e8))
    assert layer(folder).activations_id() == former


def test_a_store_of_this_version_goes_before_one_of_an_earlier_version(folder, former, cache):
    edit("tokenizer_config.json", eos_token="a")(folder)
    source = layer(folder)
    source.prepare()
    shutil.rmtree(cache / "activations" / former)
    assert layer(folder).activations_id() == source.activations_id()


# Corpora


def corpus(**changes: Any) -> Corpus:
    fields = {"name": "small", "source": "texts", "licence": "CC0", "texts": TEXTS}
    return Corpus(**{**fields, "min_chars": 10, "eval_percent": 30, **changes})


def test_files_in_another_order_are_another_corpus_and_other_names_alone_are_not(tmp_path):
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i:02}.txt").write_text(text)
    base = corpus(source="folder", folder=str(tmp_path)).corpus_id()
    (tmp_path / "11.txt").rename(tmp_path / "11b.txt")
    assert corpus(source="folder", folder=str(tmp_path)).corpus_id() == base
    (tmp_path / "11b.txt").rename(tmp_path / "000.txt")
    assert corpus(source="folder", folder=str(tmp_path)).corpus_id() != base


def test_a_corpus_of_an_earlier_version_keeps_its_id_while_its_order_is_the_same(monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(Corpus, "_is_built", lambda *_: True)
        former = corpus().corpus_id()
        corpus().documents("eval")
    assert corpus().corpus_id() == former
    assert corpus(texts=TEXTS[::-1]).corpus_id() != former
    assert corpus(name="elsewhere").corpus_id() != former  # which no cache holds


WHEEL = {"requirement": "a==1", "sha256": "0" * 64}


def test_members_and_exclusions_of_a_wheel_are_told_apart():
    pairs = [(("a", "but", "b"), ()), (("a",), ("b", "but")), (("a/but/b",), ()), (("a",), ("b",))]
    ids = {
        corpus(source="wheel", wheel={**WHEEL, "members": members}, exclude=exclude).corpus_id()
        for members, exclude in pairs
    }
    assert len(ids) == len(pairs)


# Records


def cell(results: Path, dtype: str) -> Cell:
    words = ["source=lm_tiny", "trainer=topk", "fit.steps=2", f"results={results}"]
    words += [f"source.model.dtype={dtype}", "source.read_dtype=float32", "tracking=none"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(compose("config", overrides=words))


def test_the_dtype_in_which_a_task_runs_the_model_is_in_the_id_of_its_record(tmp_path):
    exact, rough = cell(tmp_path, "float32"), cell(tmp_path, "bfloat16")
    assert exact.record_path() != rough.record_path()
    assert exact.requests()[0].id() == rough.requests()[0].id()  # trained on the same store


def test_a_record_of_an_earlier_version_is_found_by_the_dtype_that_it_states(tmp_path):

    rough = cell(tmp_path, "bfloat16")
    config = rough.config()
    del config["model"]["dtype"]
    record = Record(
        task=rough.versioned_task(),  # type: ignore[arg-type]
        config=config,
        seeds=plain(rough.seeds),
        scores={"a/b": 1.0},
        cost={"seconds": 1.0, "forward_equivalents": 0.0, "tokens": 1, "peak_bytes": 1},
        provenance=provenance("cpu", model={"name": "tiny_random", "dtype": "bfloat16"}),
    )
    path = save(record, tmp_path / "records")
    assert rough.record_path() == path
    other = provenance("cpu", model={"name": "tiny_random", "dtype": "float32"})
    save(replace(record, provenance=other), tmp_path / "records")
    assert rough.record_path() != path


def test_a_file_is_hashed_again_where_size_and_time_are_what_they_were(folder):
    before = file_hash(folder / "model.safetensors")
    flip_a_bit(folder)
    assert file_hash(folder / "model.safetensors") != before


# Checkpoints

REQUEST = Request(
    source=Superposition(n_features=8, width=4, l0=2),
    method=TopK(d_sae=8, k=2, optim=Optim(lr=0.1)),
    settings=FitSettings(steps=10, batch_size=4),
    seeds=Seeds(),
    root=Path("results"),
    device=torch.device("cpu"),
)
SHAPING = {
    "settings": {"steps": 11, "batch_size": 5, "init_rows": 10, "precision": "bf16"},
    "method": {"d_sae": 9, "k": 3, "tied": True, "optim": Optim(lr=0.2)},
    "source": {"n_features": 9, "width": 5, "l0": 1, "seed": 1},
    "seeds": {"data": 1, "init": 1},
}
OTHER = {"settings": {"log_every": 1, "save_every": 1, "shared_gb": 1.0}, "seeds": {"eval": 1}}


def changed(part: str, name: str, value: Any) -> str:
    before: Any = getattr(REQUEST, part)
    return replace(REQUEST, **{part: replace(before, **{name: value})}).id()


def test_all_that_shapes_an_sae_is_in_the_id_of_its_checkpoint():
    ids = [changed(part, *pair) for part, pairs in SHAPING.items() for pair in pairs.items()]
    assert len({REQUEST.id(), *ids}) == len(ids) + 1


def test_what_is_logged_measured_or_where_is_not_in_the_id_of_a_checkpoint():
    for part, pairs in OTHER.items():
        assert {changed(part, *pair) for pair in pairs.items()} == {REQUEST.id()}
    elsewhere = replace(REQUEST, root=Path("elsewhere"), device=torch.device("meta"))
    assert elsewhere.id() == REQUEST.id()
