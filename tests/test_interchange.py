"""SAEs of sae-lens and ours: the same function after the way there, back, and by their own code."""

import json

import pytest
import torch
from safetensors.torch import load_file
from toy import OPTIM, ToyStream, train

from benchmarks import export
from gradsae.errors import UserError
from gradsae.interfaces import Trainer
from gradsae.sae import model as saes
from gradsae.sae.formats.saelens import CONFIG, WEIGHTS, from_saelens, to_saelens
from gradsae.sae.model import SAE, make_sae
from gradsae.trainers.batchtopk import BatchTopK
from gradsae.trainers.controls import Control
from gradsae.trainers.gated import Gated
from gradsae.trainers.gba import GBA
from gradsae.trainers.jumprelu import JumpReLU
from gradsae.trainers.l1 import L1
from gradsae.trainers.topk import TopK

TRAINERS: list[Trainer] = [
    TopK(d_sae=24, k=3, optim=OPTIM),
    L1(d_sae=24, l1=0.1, optim=OPTIM),
    JumpReLU(d_sae=24, coefficient=1e-3, optim=OPTIM, threshold=0.1, bandwidth=0.1, tied=True),
    BatchTopK(d_sae=24, k=2, optim=OPTIM),
    Gated(d_sae=24, l1=0.02, optim=OPTIM),
    GBA(d_sae=24, optim=OPTIM, groups=4),  # scales each row
    GBA(d_sae=24, optim=OPTIM, groups=4, tied=False, normalise="unit", centre=True),
    GBA(d_sae=24, optim=OPTIM, groups=4, activation="relu", normalise="sqrt_d"),
]
each = pytest.mark.parametrize("trainer", TRAINERS, ids=lambda t: f"{t.name}-{t.normalise}")


@pytest.fixture(scope="module")
def trained() -> dict[Trainer, SAE]:
    return {}


def sae_of(trainer: Trainer, trained: dict[Trainer, SAE]) -> SAE:
    """A trained SAE with a mean to fold, whatever its normaliser took from the data."""
    if trainer not in trained:
        sae = train(trainer, 20)
        if sae.arch.normalise != "token":
            sae.mean.add_(torch.linspace(-1, 1, 12))
        trained[trainer] = sae
    return trained[trainer]


def inputs() -> torch.Tensor:
    return 0.3 + ToyStream(seed=4, batch=512).next()


def their_formula(folder, x):
    """What sae-lens computes from the two files, by its documented formulas."""
    config, w = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
    size = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
    size = size if config["normalize_activations"] == "constant_norm_rescale" else torch.ones(1)
    pre = (x / size - w["b_dec"] * config["apply_b_dec_to_input"]) @ w["W_enc"]
    pre = pre + w["b_gate" if config["architecture"] == "gated" else "b_enc"]
    f = pre.relu()
    if config["architecture"] == "topk":
        least = pre.sort(1, descending=True).values[:, config["k"] - 1 : config["k"]]
        f = f * (pre >= least)
    if config["architecture"] == "jumprelu":
        f = f * (pre > w["threshold"])
    if config["architecture"] == "gated":
        u = pre - w["b_gate"]
        f = (pre > 0) * (w["r_mag"].exp() * u + w["b_mag"]).relu()
    return (f @ w["W_dec"] + w["b_dec"]) * size


@each
def test_the_exported_files_hold_the_same_function(trainer, trained, tmp_path):
    sae, x = sae_of(trainer, trained), inputs()
    to_saelens(sae, tmp_path)
    torch.testing.assert_close(their_formula(tmp_path, x), sae(x).recon, atol=1e-5, rtol=0)


@each
def test_what_was_exported_comes_back_as_the_same_function(trainer, trained, tmp_path):
    sae, x = sae_of(trainer, trained), inputs()
    to_saelens(sae, tmp_path)
    back = from_saelens(tmp_path)
    torch.testing.assert_close(back(x).recon, sae(x).recon, atol=1e-5, rtol=0)
    assert torch.equal(back(x).codes.n_open(), sae(x).codes.n_open())


@each
def test_sae_lens_loads_ours_as_the_same_function(trainer, trained, tmp_path):
    lens = pytest.importorskip("sae_lens")
    sae, x = sae_of(trainer, trained), inputs()
    to_saelens(sae, tmp_path, {"gradsae_trainer": {"name": trainer.name}})
    with torch.no_grad():
        theirs = lens.SAE.load_from_disk(tmp_path)
        torch.testing.assert_close(theirs(x), sae(x).recon, atol=1e-5, rtol=0)
        assert torch.equal((theirs.encode(x) > 0).sum(1), sae(x).codes.n_open())


def build_theirs(name: str):
    """An SAE made by sae-lens with random weights, and whether it is saved for inference."""
    lens = pytest.importorskip("sae_lens")
    more = {
        "standard": {},
        "topk": {"k": 3, "rescale_acts_by_decoder_norm": True},
        "gated": {},
        "jumprelu": {"jumprelu_init_threshold": 0.2},
        "batchtopk": {"k": 2.5},
        "matryoshka_batchtopk": {"k": 2.5, "matryoshka_widths": [8, 24]},
    }[name]
    kind, config = lens.registry.get_sae_training_class(name)
    return kind(config(d_in=12, d_sae=24, **more))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("for_inference", [True, False])
@pytest.mark.parametrize(
    "name", ["standard", "topk", "gated", "jumprelu", "batchtopk", "matryoshka_batchtopk"]
)
def test_theirs_load_here_as_the_same_function(name, for_inference, tmp_path, generator):
    lens = pytest.importorskip("sae_lens")
    theirs = build_theirs(name)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
        if hasattr(theirs, "topk_threshold"):
            theirs.topk_threshold.fill_(0.3)
        if hasattr(theirs, "threshold"):
            theirs.threshold[:3] = -0.1
    theirs.save_inference_model(tmp_path / "inference")
    folder = tmp_path / "inference"
    if not for_inference:
        folder = tmp_path / "training"
        theirs.save_model(folder)
    x = inputs()
    with torch.no_grad():
        expected = lens.SAE.load_from_disk(tmp_path / "inference")(x)
        torch.testing.assert_close(from_saelens(folder)(x).recon, expected, atol=1e-5, rtol=0)


def test_the_command_goes_there_and_back(tmp_path, trained, capsys):
    sae, x = sae_of(TRAINERS[0], trained), inputs()
    sae.save(tmp_path / "ours", {"trainer": {"name": "topk"}})
    export.export(export.parse([str(tmp_path / "ours"), str(tmp_path / "theirs")]))
    words = ["--from-saelens", str(tmp_path / "theirs"), str(tmp_path / "back")]
    export.export(export.parse(words))
    back = saes.load(tmp_path / "back")
    torch.testing.assert_close(back(x).recon, sae(x).recon, atol=1e-5, rtol=0)
    metadata = json.loads((tmp_path / "theirs" / CONFIG).read_text())["metadata"]
    assert metadata["gradsae_trainer"] == {"name": "topk"}


def test_rows_scaled_and_centred_cannot_be_exported(tmp_path):
    sae = train(GBA(d_sae=24, optim=OPTIM, groups=4, centre=True), 1)
    with pytest.raises(UserError, match="differs from row to row is not folded"):
        to_saelens(sae, tmp_path)


def test_what_sae_lens_has_no_word_for_cannot_be_exported(tmp_path):
    control = Control(atoms="random", d_sae=5, k=2, encoder="pursuit")
    sae = control.build(torch.randn(50, 4), torch.Generator())
    with pytest.raises(UserError, match="gate=pursuit"):
        to_saelens(sae, tmp_path)
    below = make_sae(d_in=2, d_sae=3, gate="jump")
    with torch.no_grad():
        below.b_enc.fill_(0.1)
    with pytest.raises(UserError, match="opens below zero"):
        to_saelens(below, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "temporal"}, "architecture='temporal' has no counterpart"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations='hook_z'"),
        ({"d_sae": 25}, r"cfg\.json: d_sae=25, but sae_weights\.safetensors holds .* d_sae=24"),
        ({"d_in": None}, "d_in missing"),
        ({"architecture": "batchtopk"}, "topk_threshold missing"),
    ],
)
def test_foreign_folders_are_refused_with_a_reason(change, message, trained, tmp_path):
    to_saelens(sae_of(TRAINERS[0], trained), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text()) | change
    (tmp_path / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(UserError, match=message):
        from_saelens(tmp_path)


def test_absent_and_damaged_files_are_named(tmp_path, trained):
    with pytest.raises(UserError, match=r"cfg\.json is missing"):
        from_saelens(tmp_path)
    to_saelens(sae_of(TRAINERS[0], trained), tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(UserError, match="damaged weights"):
        from_saelens(tmp_path)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(UserError, match="damaged JSON"):
        from_saelens(tmp_path)
