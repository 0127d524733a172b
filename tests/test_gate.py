"""Every loader refuses what is not finite, of another kind, of another shape or damaged.

Bits are flipped one by one; expected refusals come from what was changed, not from the loaders.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_formats import (
    D_IN,
    D_SAE,
    WRITERS,
    dictionary_relu,
    gemma_scope_2,
    old_saelens,
    old_saelens_relu,
    ours,
    parts,
    sparsify,
)
from test_saelens_world import write

from gradsae.errors import UserError
from gradsae.sae import model as saes
from gradsae.sae.formats import load
from gradsae.sources.saved_world import SavedWorld
from gradsae.storage.sealed import read_object, sealed, unsealed
from gradsae.storage.tensors import read_tensors, save_tensors

SAFE = [writer for writer in WRITERS if writer.__name__ != "gemma_scope"]
"""Those that write, or can be read from, safetensors."""


def weights_of(folder: Path) -> Path:
    """Return the safetensors file of an SAE, made of its pickle where it has one."""
    path = folder / "ae.pt"
    if path.exists() and not path.with_suffix(".safetensors").exists():
        tensors = torch.load(path, weights_only=True)
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, path.with_suffix(".safetensors"))
    return next(folder.glob("*.safetensors"))


def with_tensor(folder: Path, name: str, tensor: torch.Tensor) -> None:
    path = weights_of(folder)
    save_file({**load_file(path), name: tensor}, path)


def matrix_of(folder: Path) -> str:
    """Return the name of the encoder's matrix in a file."""
    names = [name for name in load_file(weights_of(folder)) if "enc" in name.lower()]
    return next(name for name in names if load_file(weights_of(folder))[name].dim() == 2)


@pytest.mark.parametrize("writer", SAFE)
@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.uint8])
def test_weights_of_whole_numbers_are_refused_by_every_loader(writer, dtype, tmp_path):
    writer(tmp_path, parts())
    name = matrix_of(tmp_path)
    with_tensor(tmp_path, name, load_file(weights_of(tmp_path))[name].to(dtype))
    with pytest.raises(UserError, match=rf"{name} must hold .*got torch\.{str(dtype)[6:]}"):
        load.load(tmp_path)


@pytest.mark.parametrize("writer", SAFE)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_every_loader(writer, value, tmp_path):
    writer(tmp_path, parts())
    name = matrix_of(tmp_path)
    spoiled = load_file(weights_of(tmp_path))[name].clone()
    spoiled[1, 2] = value
    with_tensor(tmp_path, name, spoiled)
    with pytest.raises(UserError, match=f"{name} must hold finite numbers, 1 of 96 are not"):
        load.load(tmp_path)


@pytest.mark.parametrize("writer", SAFE)
def test_a_matrix_of_another_width_is_refused_by_every_loader(writer, tmp_path):
    writer(tmp_path, parts())
    with_tensor(tmp_path, matrix_of(tmp_path), torch.zeros(5, 7))
    with pytest.raises(UserError, match=r"fit|holds weights of"):
        load.load(tmp_path)


def test_a_decoder_row_of_zero_is_said_as_that_and_not_as_a_damaged_file(tmp_path):
    w = parts()
    w["W_dec"][3] = 0
    w["W_dec"][5] = 0
    (tmp_path / "a").mkdir()
    dictionary_relu(tmp_path / "a", w)
    with pytest.raises(UserError, match=r"dict_class=AutoEncoder .* 0 for latent 3 and 1 more"):
        load.load(tmp_path / "a")
    (tmp_path / "b").mkdir()
    version = {"sae_lens_version": "6.1.0"}
    changes = {"architecture": "standard", "normalize_activations": "none"}
    old_saelens(tmp_path / "b", w, **changes, **version, rescale_acts_by_decoder_norm=True)
    with pytest.raises(UserError, match=r"rescale_acts_by_decoder_norm=true .* 0 for latent 3"):
        load.load(tmp_path / "b")


def test_a_number_that_float32_cannot_hold_is_said_with_its_row(tmp_path):
    old_saelens_relu(tmp_path, parts())
    huge = load_file(weights_of(tmp_path))["W_dec"].double()
    huge[4, 1] = 1e200
    with_tensor(tmp_path, "W_dec", huge)
    with pytest.raises(UserError, match=r"1 of W_dec \(the first for row 4\) .* float32"):
        load.load(tmp_path)


@pytest.mark.parametrize(
    ("writer", "file", "key", "value"),
    [
        (sparsify, "cfg.json", "k", 2.5),
        (sparsify, "cfg.json", "k", D_SAE + 1),
        (sparsify, "cfg.json", "k", True),
        (sparsify, "cfg.json", "activation", ["topk"]),
        (old_saelens_relu, "cfg.json", "hook_name", 7),
        (old_saelens_relu, "cfg.json", "model_name", {"a": 1}),
        (old_saelens_relu, "cfg.json", "d_in", 10**12),
        (old_saelens_relu, "cfg.json", "architecture", None),
        (old_saelens_relu, "cfg.json", "metadata", [1]),
        (gemma_scope_2, "config.json", "model_name", 3),
        (dictionary_relu, "config.json", "trainer", "a text"),
        (dictionary_relu, "config.json", "trainer", {"dict_class": ["AutoEncoder"]}),
        (dictionary_relu, "config.json", "trainer", {"dict_class": "AutoEncoder", "lm_name": 4}),
        (ours, "sae.json", "architecture", {"d_in": D_IN, "d_sae": 10**12, "gate": "relu"}),
        (ours, "sae.json", "architecture", []),
        (ours, "sae.json", "extra", "a text"),
        (ours, "sae.json", "extra", {"place": {"site": 4}}),
        (ours, "sae.json", "more", 1),
    ],
)
def test_a_config_of_another_type_or_size_is_refused_in_words(writer, file, key, value, tmp_path):
    writer(tmp_path, parts())
    config = json.loads((tmp_path / file).read_text()) | {key: value}
    config.pop("checksum", None)
    (tmp_path / file).write_text(json.dumps(config))
    with pytest.raises(UserError):
        load.load(tmp_path)


def test_names_of_tensors_that_are_no_texts_are_refused(tmp_path):
    dictionary_relu(tmp_path, parts())
    torch.save({3: torch.zeros(2)}, tmp_path / "ae.pt")
    with pytest.raises(UserError, match="names of tensors must be texts, got 3"):
        load.load(tmp_path)


def test_a_tensor_that_would_be_left_out_is_refused(tmp_path):
    sparsify(tmp_path, parts())
    with_tensor(tmp_path, "W_skip", torch.zeros(D_IN, D_IN))
    with pytest.raises(UserError, match="W_skip has no counterpart"):
        load.load(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_weights_that_are_no_file_are_refused_and_not_waited_for(kind, tmp_path):
    sparsify(tmp_path, parts())
    path = tmp_path / "sae.safetensors"
    path.unlink()
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda p: p.symlink_to("/dev/zero")}
    make[kind](path)
    with pytest.raises(UserError, match="weights must be a file"):
        load.load(tmp_path)


def test_every_flipped_bit_of_a_file_of_tensors_is_found(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3).bfloat16(), "b": torch.tensor([True, False])}
    save_tensors(tensors, path)
    assert torch.equal(read_tensors(path, own=True)["a"], tensors["a"])
    content = path.read_bytes()
    for i in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[i // 8] ^= 1 << i % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError):
            read_tensors(path, own=True)


def test_every_flipped_bit_of_a_sealed_object_is_found_unless_it_means_the_same(tmp_path):
    path, data = tmp_path / "x.json", {"a": [1, 2.5, None], "b": {"c": "text"}}
    path.write_text(json.dumps(sealed(data)))
    content = path.read_bytes()
    n_found = 0
    for i in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[i // 8] ^= 1 << i % 8
        path.write_bytes(flipped)
        try:
            rest = unsealed(read_object(path), path)
        except UserError:
            n_found += 1
        else:  # the name `checksum` itself: then the key is one that nobody knows
            assert rest == data or rest.keys() != data.keys()
    assert n_found > 7.5 * len(content)


def test_a_flipped_bit_of_a_checkpoint_is_found_in_either_file(tmp_path):
    ours(tmp_path, parts())
    for name, at in (("sae.safetensors", -5), ("sae.json", 60)):
        content = (tmp_path / name).read_bytes()
        flipped = bytearray(content)
        flipped[at] ^= 4
        (tmp_path / name).write_bytes(flipped)
        with pytest.raises(UserError, match=name):
            saes.load(tmp_path)
        (tmp_path / name).write_bytes(content)
    saes.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"hierarchy": {"total_root_nodes": 1}}, {}, r"describes trees .* hierarchy\.json"),
        ({}, {"feature_vectors": torch.zeros(6, 3)}, "of feature 0 is 0, which is no direction"),
        ({}, {"bias": torch.tensor([0, 1, 2])}, r"bias must hold floating.* got torch\.int64"),
        ({}, {"bias": torch.full((3,), torch.nan)}, "bias must hold finite numbers, 3 of 3"),
        ({}, {"bias": torch.zeros(4)}, r"bias has shape \[4\], but must be \[d_in=3\]"),
        ({"num_features": 7}, {}, "n_features=7, but .* n_features=6"),
        ({"mean_firing_magnitudes": [1]}, {}, "cannot be read"),
        ({"seed": "a"}, {}, None),
    ],
)
def test_a_world_goes_through_the_same_gate(config, tensors, message, tmp_path):
    folder = write(tmp_path, None, config, **tensors)
    if message is None:  # a seed is read only where magnitudes are drawn
        assert SavedWorld(folder=str(folder)).d_in == 3
        return
    with pytest.raises(UserError, match=message):
        _ = SavedWorld(folder=str(folder)).d_in
