"""Released SAEs: each format read as the same function, by its published formula and its own code.

The files are written here by hand in the published layout, so that every format is tried without
its library; where the library is installed, it writes them and computes the expected value.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gradsae.errors import UserError
from gradsae.sae.formats import load
from gradsae.sae.formats.released import place_of
from gradsae.sae.model import SAE, make_sae
from gradsae.trainers.pretrained import Pretrained, same_model

D_IN, D_SAE, K = 6, 16, 3
Parts = dict[str, Tensor]


def parts(seed: int = 0) -> Parts:
    """Random weights under our names; matrices are [d_sae, d_in]."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D_SAE, D_IN), "W_dec": (D_SAE, D_IN), "b_enc": D_SAE, "b_dec": D_IN}
    shapes |= {"threshold": D_SAE, "r_mag": D_SAE, "b_mag": D_SAE}
    drawn = {name: torch.randn(size, generator=generator) * 0.5 for name, size in shapes.items()}
    drawn["threshold"] = drawn["threshold"].abs()
    return drawn


def rows() -> Tensor:
    return torch.randn(64, D_IN, generator=torch.Generator().manual_seed(9))


def top(pre: Tensor) -> Tensor:
    kept = torch.zeros_like(pre).scatter(1, pre.topk(K).indices, 1.0)
    return pre.relu() * kept


def save_npz(folder: Path, w: Parts) -> None:
    names = ("W_dec", "b_enc", "b_dec", "threshold")
    arrays: dict[str, Any] = {name: w[name].numpy() for name in names}
    np.savez(folder / "params.npz", W_enc=w["W_enc"].mT.numpy(), **arrays)


def gemma_scope(folder: Path, w: Parts) -> Tensor:
    save_npz(folder, w)
    pre = rows() @ w["W_enc"].mT + w["b_enc"]
    return (pre.relu() * (pre > w["threshold"])) @ w["W_dec"] + w["b_dec"]


def gemma_scope_2(folder: Path, w: Parts) -> Tensor:
    tensors = {"w_enc": w["W_enc"].mT.contiguous(), "w_dec": w["W_dec"], "b_enc": w["b_enc"]}
    tensors |= {"b_dec": w["b_dec"], "threshold": w["threshold"]}
    save_file(tensors, folder / "params.safetensors")
    stated = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt"}
    stated["hf_hook_point_in"] = "model.layers.7.output"
    (folder / "config.json").write_text(json.dumps(stated))
    pre = rows() @ w["W_enc"].mT + w["b_enc"]
    return (pre.relu() * (pre > w["threshold"])) @ w["W_dec"] + w["b_dec"]


def sparsify(folder: Path, w: Parts) -> Tensor:
    names = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
    save_file({theirs: w[ours] for theirs, ours in names.items()}, folder / "sae.safetensors")
    config = {"activation": "topk", "k": K, "num_latents": 0, "expansion_factor": 4, "d_in": D_IN}
    (folder / "cfg.json").write_text(json.dumps(config))
    pre = (rows() - w["b_dec"]) @ w["W_enc"].mT + w["b_enc"]
    return top(pre.relu()) @ w["W_dec"] + w["b_dec"]


def dictionary(kind: str, tensors: dict[str, Tensor], folder: Path) -> None:
    torch.save(tensors, folder / "ae.pt")
    trainer = {"dict_class": kind, "k": K, "layer": 4, "lm_name": "EleutherAI/pythia-70m-deduped"}
    trainer["submodule_name"] = "resid_post_layer_4"
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))


def dictionary_relu(folder: Path, w: Parts) -> Tensor:
    tensors = {"encoder.weight": w["W_enc"], "encoder.bias": w["b_enc"], "bias": w["b_dec"]}
    dictionary("AutoEncoder", {**tensors, "decoder.weight": w["W_dec"].mT}, folder)
    return ((rows() - w["b_dec"]) @ w["W_enc"].mT + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec"]


def dictionary_new(folder: Path, w: Parts) -> Tensor:
    tensors = {"encoder.weight": w["W_enc"], "encoder.bias": w["b_enc"]}
    tensors |= {"decoder.weight": w["W_dec"].mT, "decoder.bias": w["b_dec"]}
    dictionary("AutoEncoderNew", tensors, folder)
    return (rows() @ w["W_enc"].mT + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec"]


def dictionary_top(folder: Path, w: Parts) -> Tensor:
    tensors = {"encoder.weight": w["W_enc"], "encoder.bias": w["b_enc"], "b_dec": w["b_dec"]}
    tensors |= {"decoder.weight": w["W_dec"].mT, "k": torch.tensor(K, dtype=torch.int)}
    dictionary("AutoEncoderTopK", {**tensors, "threshold": torch.tensor(-1.0)}, folder)
    return top((rows() - w["b_dec"]) @ w["W_enc"].mT + w["b_enc"]) @ w["W_dec"] + w["b_dec"]


def dictionary_batch_top(folder: Path, w: Parts) -> Tensor:
    tensors = {"encoder.weight": w["W_enc"], "encoder.bias": w["b_enc"], "b_dec": w["b_dec"]}
    tensors |= {
        "decoder.weight": w["W_dec"].mT,
        "k": torch.tensor(K),
        "threshold": torch.tensor(0.4),
    }
    dictionary("BatchTopKSAE", tensors, folder)
    pre = ((rows() - w["b_dec"]) @ w["W_enc"].mT + w["b_enc"]).relu()
    return (pre * (pre > 0.4)) @ w["W_dec"] + w["b_dec"]


def dictionary_matryoshka(folder: Path, w: Parts) -> Tensor:
    tensors = {"W_enc": w["W_enc"].mT, "W_dec": w["W_dec"], "b_enc": w["b_enc"]}
    tensors |= {"b_dec": w["b_dec"], "k": torch.tensor(K), "threshold": torch.tensor(0.4)}
    tensors["group_sizes"] = torch.tensor([8, 8])
    dictionary("MatryoshkaBatchTopKSAE", tensors, folder)
    pre = ((rows() - w["b_dec"]) @ w["W_enc"].mT + w["b_enc"]).relu()
    return (pre * (pre > 0.4)) @ w["W_dec"] + w["b_dec"]


def dictionary_jump(folder: Path, w: Parts) -> Tensor:
    tensors = {name: w[name] for name in ("W_dec", "b_enc", "b_dec", "threshold")}
    dictionary("JumpReluAutoEncoder", {**tensors, "W_enc": w["W_enc"].mT}, folder)
    pre = rows() @ w["W_enc"].mT + w["b_enc"]
    return (pre * (pre > w["threshold"])).relu() @ w["W_dec"] + w["b_dec"]


def dictionary_gated(folder: Path, w: Parts) -> Tensor:
    tensors = {"encoder.weight": w["W_enc"], "decoder.weight": w["W_dec"].mT, "r_mag": w["r_mag"]}
    tensors |= {"decoder_bias": w["b_dec"], "gate_bias": w["b_enc"], "mag_bias": w["b_mag"]}
    dictionary("GatedAutoEncoder", tensors, folder)
    u = (rows() - w["b_dec"]) @ w["W_enc"].mT
    codes = (u + w["b_enc"] > 0) * (w["r_mag"].exp() * u + w["b_mag"]).relu()
    return codes @ w["W_dec"] + w["b_dec"]


def old_saelens(folder: Path, w: Parts, **changes: object) -> None:
    """The layout of sae-lens 3: everything in one config, what was usual left out."""
    names = ("W_dec", "b_enc", "b_dec")
    tensors = {name: w[name] for name in names} | {"W_enc": w["W_enc"].mT.contiguous()}
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {"d_in": D_IN, "d_sae": D_SAE, "hook_name": "blocks.25.hook_resid_post"}
    config |= {"model_name": "meta-llama/Meta-Llama-3-8B-Instruct", "dtype": "torch.float32"}
    config |= {"normalize_activations": False, "activation_fn_str": "relu", **changes}
    (folder / "cfg.json").write_text(json.dumps(config))


def old_saelens_relu(folder: Path, w: Parts) -> Tensor:
    old_saelens(folder, w)
    return ((rows() - w["b_dec"]) @ w["W_enc"].mT + w["b_enc"]).relu() @ w["W_dec"] + w["b_dec"]


def old_saelens_top(folder: Path, w: Parts) -> Tensor:
    old_saelens(folder, w, activation_fn_str="topk", activation_fn_kwargs={"k": K})
    return top((rows() - w["b_dec"]) @ w["W_enc"].mT + w["b_enc"]) @ w["W_dec"] + w["b_dec"]


def ours(folder: Path, w: Parts) -> Tensor:
    sae = make_sae(d_in=D_IN, d_sae=D_SAE, gate="topk", k=K)
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    sae.load_state_dict({n: w[n] for n in names} | {"mean": sae.mean, "scale": sae.scale})
    sae.save(folder, {})
    return top((rows() - w["b_dec"]) @ w["W_enc"].mT + w["b_enc"]) @ w["W_dec"] + w["b_dec"]


WRITERS = [
    *(gemma_scope, gemma_scope_2, sparsify, dictionary_relu, dictionary_new, dictionary_top),
    *(dictionary_batch_top, dictionary_matryoshka, dictionary_jump, dictionary_gated),
    *(old_saelens_relu, old_saelens_top, ours),
]


@pytest.mark.parametrize("write", WRITERS)
def test_files_in_the_published_layout_are_the_function_of_their_formula(write, tmp_path):
    expected = write(tmp_path, parts())
    with torch.no_grad():
        found = load.load(tmp_path).sae(rows()).recon
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1


def test_npz_weights_of_half_precision_are_widened_exactly(tmp_path):
    w = {name: tensor.half() for name, tensor in parts().items()}
    save_npz(tmp_path, w)
    assert torch.equal(load.load(tmp_path).sae.get_parameter("W_enc"), w["W_enc"].float())


def test_sparsify_saves_and_this_loads_the_same_function(tmp_path):
    theirs_of = pytest.importorskip("sparsify", reason="eai-sparsify is not installed")
    config = theirs_of.SparseCoderConfig(num_latents=D_SAE, k=K)
    theirs = theirs_of.SparseCoder(D_IN, config)
    w = parts() | {"encoder.weight": parts()["W_enc"], "encoder.bias": parts()["b_enc"]}
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            tensor.copy_(w[str(name)])
    theirs.save_to_disk(tmp_path / "layers.5.mlp")
    with torch.no_grad():
        acts, indices, _ = theirs.encode(rows())
        dense = torch.zeros(len(rows()), D_SAE).scatter(1, indices, acts)
        expected = dense @ theirs.W_dec + theirs.b_dec
        found = load.load(tmp_path / "layers.5.mlp")
        ours = found.sae(rows())
    torch.testing.assert_close(ours.recon, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.codes.to_dense(), dense, atol=1e-5, rtol=1e-5)
    assert found.place == (None, "mlp_out", 5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "write",
    [
        *(dictionary_relu, dictionary_new, dictionary_top, dictionary_batch_top),
        *(dictionary_matryoshka, dictionary_jump, dictionary_gated),
    ],
)
def test_dictionary_learning_loads_the_same_files_as_the_same_codes(write, tmp_path):
    utils = pytest.importorskip("dictionary_learning.utils", reason="not installed")
    write(tmp_path, parts())
    theirs, _ = utils.load_dictionary(str(tmp_path), device="cpu")
    with torch.no_grad():
        found = load.load(tmp_path).sae(rows())
        torch.testing.assert_close(found.recon, theirs(rows()), atol=1e-5, rtol=1e-5)
        codes = theirs.encode(rows())
        torch.testing.assert_close(found.codes.to_dense(), codes, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_sae_lens_reads_gemma_scope_weights_as_the_same_function(tmp_path):
    lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    w = parts()
    gemma_scope(tmp_path, w)
    kind, config = lens.registry.get_sae_class("jumprelu")
    theirs = kind(config(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=False))
    with np.load(tmp_path / "params.npz") as arrays, torch.no_grad():
        for name in arrays.files:
            getattr(theirs, str(name)).copy_(torch.from_numpy(arrays[name]))
        found = load.load(tmp_path).sae(rows())
        torch.testing.assert_close(found.recon, theirs(rows()), atol=1e-5, rtol=1e-5)
        codes = theirs.encode(rows())
        torch.testing.assert_close(found.codes.to_dense(), codes, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", [old_saelens_relu, old_saelens_top])
def test_sae_lens_reads_old_configs_as_the_same_function(write, tmp_path):
    lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    write(tmp_path, parts())
    with torch.no_grad():
        expected = lens.SAE.load_from_disk(tmp_path)(rows())
        found = load.load(tmp_path).sae(rows()).recon
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("hook", "kind", "layer"),
    [
        ("blocks.25.hook_resid_post", "resid_post", 25),
        ("blocks.3.hook_resid_pre", "resid_post", 2),
        ("blocks.9.hook_mlp_out", "mlp_out", 9),
        ("model.layers.7.output", "resid_post", 7),
        ("layers.5.mlp", "mlp_out", 5),
        ("transformer.h.2", "resid_post", 2),
        ("blocks.0.attn.hook_z", "attn.hook_z", 0),
        ("hook_embed", None, None),
    ],
)
def test_hook_names_of_others_are_read_as_sites(hook, kind, layer):
    assert place_of(hook) == (None, kind, layer)


def test_gemma_scope_says_its_place_by_its_folders(tmp_path):
    hub = tmp_path / "models--google--gemma-scope-9b-it-res/snapshots/abc"
    folder = hub / "layer_20/width_131k/average_l0_81"
    folder.mkdir(parents=True)
    gemma_scope(folder, parts())
    assert load.load(folder).place == ("gemma-2-9b-it", "resid_post", 20)


def test_the_hash_is_of_the_content_and_not_of_the_place(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    for folder, seed in ((a, 0), (b, 0), (c, 1)):
        folder.mkdir()
        sparsify(folder, parts(seed))
    assert load.content_hash(a) == load.content_hash(b) != load.content_hash(c)


class Evil:
    """Unpickled by Python itself, this would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        import os

        return os.mkdir, (self.folder,)


def test_a_pickle_that_calls_something_is_refused_and_not_run(tmp_path):
    dictionary_relu(tmp_path, parts())
    torch.save({"encoder.weight": Evil(tmp_path / "made")}, tmp_path / "ae.pt")
    with pytest.raises(UserError, match="more than a dictionary of tensors"):
        load.load(tmp_path)
    assert not (tmp_path / "made").exists()


def test_an_array_of_objects_in_npz_is_refused(tmp_path):
    np.savez(tmp_path / "params.npz", W_enc=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="damaged weights"):
        load.load(tmp_path)


def spoiled(write: Callable, name: str, change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write(folder, parts())
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(change(found)))

    return spoil


def cut(write: Callable, name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write(folder, parts())
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])

    return spoil


def not_finite(folder: Path) -> None:
    gemma_scope(folder, parts() | {"b_enc": torch.full((D_SAE,), torch.nan)})


def too_narrow(folder: Path) -> None:
    save_npz(folder, parts() | {"W_dec": torch.zeros(D_SAE, D_IN - 1)})


def transcoder(folder: Path) -> None:
    gemma_scope_2(folder, parts())
    w = {"affine_skip_connection": torch.zeros(D_IN, D_IN)}
    from safetensors.torch import load_file

    save_file(load_file(folder / "params.safetensors") | w, folder / "params.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: None, "holds no SAE in a known format .Gemma Scope: params.npz or"),
        (lambda folder: (folder / "sae.pt").write_text("x"), r"It holds: sae\.pt"),
        (spoiled(sparsify, "cfg.json", lambda c: c | {"transcode": True}), "transcode=True has no"),
        (spoiled(sparsify, "cfg.json", lambda c: c | {"activation": "groupmax"}), "'groupmax'"),
        (spoiled(sparsify, "cfg.json", lambda c: c | {"d_in": 7}), "d_in=7, but sae.safetensors"),
        (spoiled(sparsify, "cfg.json", lambda c: {"k": 3}), "d_in missing"),
        (
            spoiled(dictionary_relu, "config.json", lambda c: {"trainer": {"dict_class": "Odd"}}),
            "dict_class='Odd' has no counterpart",
        ),
        (
            spoiled(dictionary_top, "config.json", lambda c: {"trainer": c["trainer"] | {"k": 5}}),
            r"must state one k, got \[3, 5\]",
        ),
        (cut(gemma_scope, "params.npz"), "damaged weights"),
        (cut(sparsify, "sae.safetensors"), "damaged weights"),
        (cut(dictionary_relu, "ae.pt"), "damaged, or more than"),
        (not_finite, "b_enc must hold finite numbers, 16 of 16 are not"),
        (too_narrow, "the weights do not fit each other"),
        (transcoder, "affine_skip_connection has no counterpart"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(spoil, message, tmp_path):
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        load.load(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*gone to load an SAE from"):
        load.load(tmp_path / "gone")


def pretrained(place: Path, **changes: object) -> Pretrained:
    fields = {"release": "a release", "d_sae": D_SAE, "folder": str(place)} | changes
    return Pretrained(**fields)  # pyright: ignore[reportArgumentType]


def build(trainer: Pretrained, width: int = D_IN) -> SAE:
    sae = trainer.build(torch.zeros(2, width), torch.Generator())
    assert isinstance(sae, SAE)
    return sae


def test_a_pretrained_sae_is_built_frozen_and_named_by_its_content(tmp_path):
    expected = dictionary_relu(tmp_path, parts())
    trainer = pretrained(tmp_path, site="resid_post.4", model="pythia-70m-deduped")
    sae = build(trainer)
    assert not any(p.requires_grad for p in sae.parameters())
    torch.testing.assert_close(sae(rows()).recon, expected, atol=1e-5, rtol=1e-5)
    assert trainer.content() == {"sha256": load.content_hash(tmp_path)}


@pytest.mark.parametrize(
    ("changes", "width", "message"),
    [
        ({"d_sae": 99}, D_IN, "holds 16 latents, but trainer.d_sae=99; set d_sae=16"),
        ({}, 7, "activations of width d_in=6, but the source's have 7"),
        ({"site": "resid_post.5"}, D_IN, "its files say resid_post.4, trainer.site=resid_post.5"),
        ({"site": "mlp_out.4"}, D_IN, "its files say resid_post.4, trainer.site=mlp_out.4"),
        ({"model": "pythia-70m"}, D_IN, "say model .*pythia-70m-deduped, trainer.model=pythia-70m"),
        ({"source_model": "smollm2"}, D_IN, "say model .*70m-deduped, source.model=smollm2"),
    ],
)
def test_an_sae_for_another_place_is_refused(changes, width, message, tmp_path):
    dictionary_relu(tmp_path, parts())
    with pytest.raises(UserError, match=message):
        build(pretrained(tmp_path, **changes), width)


def test_an_sae_for_another_site_or_model_is_refused_before_anything_is_read():
    from gradsae.lm.sites import Site

    trainer = pretrained(Path("nowhere"), site="resid_post.9", model="gemma-2-9b-it")
    trainer.check_place(Site("resid_post", 9), "gemma2_9b_it")
    with pytest.raises(UserError, match=r"trained at site resid_post\.9, but .* reads mlp_out\.9"):
        trainer.check_place(Site("mlp_out", 9), "gemma2_9b_it")
    with pytest.raises(
        UserError, match=r"must say where .* was trained, got null; .* resid_post\.9"
    ):
        replace(trainer, site=None).check_place(Site("resid_post", 9), "gemma2_9b_it")
    with pytest.raises(UserError, match=r"trained on model gemma-2-9b-it, but .* gemma2_9b"):
        trainer.check_place(Site("resid_post", 9), "gemma2_9b")


@pytest.mark.parametrize("fields", [{"folder": None}, {"hub_id": "a/b"}])
def test_one_of_folder_and_hub_is_asked_for(fields):
    with pytest.raises(ValueError, match="needs folder or hub_id, one of them"):
        pretrained(Path("here"), **fields)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("google/gemma-2-9b-it", "gemma2_9b_it", True),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3_8b_instruct", True),
        ("gemma-2-9b", "gemma-2-9b-it", False),
        ("pythia-70m", "pythia-160m", False),
    ],
)
def test_names_of_models_are_compared_by_what_they_mean(a, b, same):
    assert same_model(a, b) is same
    assert same_model(b, a) is same
