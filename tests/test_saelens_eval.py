"""sae-lens's own evaluation of our SAEs gives our numbers; every method makes the trip."""

import logging
import math
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from toy import OPTIM, no_log

from benchmarks.synthsaebench import lens as lenses
from benchmarks.synthsaebench.asked import asked_of
from benchmarks.synthsaebench.scored import measured, table
from benchmarks.synthsaebench.terms import TERMS
from gradsae.interfaces import KnownSource, Source, Trainer
from gradsae.metrics.truth import Truth, known_rows
from gradsae.sae.dictionary import Dictionary
from gradsae.sae.formats.saelens import from_saelens, to_saelens
from gradsae.seeds import make_generator
from gradsae.sources import saelens_world
from gradsae.sources.forest import Forest
from gradsae.trainers.batchtopk import BatchTopK
from gradsae.trainers.bias_rule import BiasRule
from gradsae.trainers.gated import Gated
from gradsae.trainers.gba import GBA
from gradsae.trainers.ista_matryoshka import IstaMatryoshka
from gradsae.trainers.jumprelu import JumpReLU
from gradsae.trainers.l1 import L1
from gradsae.trainers.matryoshka import Matryoshka
from gradsae.trainers.panneal import PAnneal
from gradsae.trainers.peel import Peel
from gradsae.trainers.topk import TopK
from gradsae.training.fit import FitSettings, Training, fit

CONF = Path(__file__).parent.parent / "conf"
WORLD = Forest(n_features=60, width=24, n_roots=4, branching=3, depth=2, lowest_rate=0.01, seed=3)
RULE = BiasRule(groups=4, htf=0.2, ltf=0.02, bias_init="quantile", bias_every=5)
TRAINERS: dict[str, Trainer[Any]] = {
    "topk": TopK(d_sae=40, k=4, optim=OPTIM),
    "topk_tied": TopK(d_sae=40, k=4, optim=OPTIM, tied=True),
    "topk_rule": TopK(d_sae=40, k=4, optim=OPTIM, rule=RULE),
    "batchtopk": BatchTopK(d_sae=40, k=4, optim=OPTIM),
    "matryoshka": Matryoshka(d_sae=40, k=4, optim=OPTIM, prefixes=(0.25, 0.5, 1.0)),
    "l1": L1(d_sae=40, l1=1.0, optim=OPTIM),
    "panneal": PAnneal(d_sae=40, l1=0.02, optim=OPTIM),
    "jumprelu": JumpReLU(d_sae=40, coefficient=2e-3, optim=OPTIM, threshold=0.1, bandwidth=0.1),
    "jumprelu_tanh": JumpReLU(
        d_sae=40,
        coefficient=0.3,
        optim=OPTIM,
        penalty="tanh",
        bandwidth=2.0,
        to_input=True,
        unit_dec=False,
        normalise="sqrt_d",
    ),
    "gated": Gated(d_sae=40, l1=0.02, optim=OPTIM),
    "gba": GBA(d_sae=40, optim=OPTIM, groups=4, tied=False, scale_init=0.05, normalise="unit"),
}
WITH_OUR_ENCODER: dict[str, Trainer[Any]] = {
    "peel": Peel(d_sae=40, optim=OPTIM, first=8),
    "ista_matryoshka": IstaMatryoshka(d_sae=40, k=4, optim=OPTIM, prefixes=(0.25, 0.5, 1.0)),
}
"""Methods whose encoder sae-lens cannot hold."""
N = 4000


@pytest.fixture(scope="module")
def lens() -> Any:
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    return pytest.importorskip("sae_lens", reason="sae-lens is a peer: make peers")


@cache
def trained(name: str, steps: int = 60) -> Any:
    return trained_on(WORLD, (TRAINERS | WITH_OUR_ENCODER)[name], steps)


def trained_on(source: Source, trainer: Trainer[Any], steps: int) -> Any:
    cpu = torch.device("cpu")
    sample = source.stream(2048, 1, cpu).next().float()
    training = Training(trainer, trainer.build(sample, make_generator(0, "init")))
    settings = FitSettings(steps=steps, batch_size=256, save_every=0)
    fit([training], source.stream(256, 1, cpu), settings, log=no_log)
    return training.sae.requires_grad_(False)


def truth_of(source: KnownSource) -> Truth:
    truth = known_rows(source, N, 0)
    assert isinstance(truth, Truth)
    return truth


def agree(sae: Dictionary, source: KnownSource, encoder: str) -> None:
    """Compare every score of theirs with ours, on the same rows."""
    evaluation = lenses.evaluate(sae, truth_of(source))
    assert encoder in evaluation.encoder
    assert 0 < evaluation.scores["sae_l0"] < sae.d_sae
    assert 0.1 < evaluation.scores["mcc"] < 1
    ours = measured(sae, source, N, 0)
    assert list(ours) == [term.name for term in TERMS]
    assert ours == pytest.approx(evaluation.scores, abs=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TRAINERS)
def test_on_the_same_rows_their_evaluation_gives_our_numbers(name, lens):
    agree(trained(name), WORLD, "loaded by sae-lens")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", WITH_OUR_ENCODER)
def test_an_encoder_that_they_cannot_hold_is_scored_as_it_is(name, lens):
    agree(trained(name), WORLD, "our encoder")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_on_v1_whose_children_are_not_scaled_the_numbers_agree_too(lens):
    agree(trained("gba"), replace(WORLD, scale_children=False), "loaded by sae-lens")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_shows_both_and_how_far_they_are_apart(lens, tmp_path):
    trained("topk").save(tmp_path / "sae", {})
    saelens_world.save(WORLD, tmp_path / "world")
    asked = asked_of(str(tmp_path / "sae"), tmp_path, str(tmp_path / "world"), 500, 0)
    lines = [line.split() for line in table(asked, has_lens=True).splitlines()]
    assert lines[1] == ["score", "ours", "sae-lens", "difference"]
    assert [line[0] for line in lines[3:]] == [term.header for term in TERMS]
    for line in lines[3:]:
        assert float(line[1]) == pytest.approx(float(line[2]), abs=2e-6)
        assert float(line[3]) < 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_on_rows_that_they_draw_it_agrees_within_sampling_error(lens, tmp_path):
    saelens_world.save(WORLD, tmp_path / "world")
    synthetic = import_module("sae_lens.synthetic")
    model = synthetic.SyntheticModel.load_from_disk(tmp_path / "world")
    sae = trained("batchtopk", steps=300)
    to_saelens(sae, tmp_path / "sae")
    torch.manual_seed(0)
    result = synthetic.eval_sae_on_synthetic_data(
        *(lens.SAE.load_from_disk(tmp_path / "sae"), model.feature_dict),
        *(model.activation_generator, 4 * N, 1000),
    )
    other = vars(result) | vars(result.classification)
    mine, spread = measured(sae, WORLD, N, 0), 5 * math.sqrt((1 + 1 / 4) / N)  # 5 standard errors
    for name in ("mcc", "uniqueness"):  # of directions alone
        assert mine[name] == pytest.approx(other[name], abs=1e-5)
    for name in ("explained_variance", "f1_score", "precision", "recall"):
        assert mine[name] == pytest.approx(other[name], abs=spread / 2)
    assert mine["sae_l0"] == pytest.approx(other["sae_l0"], rel=0.05)
    assert abs(mine["dead_latents"] - other["dead_latents"]) <= 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TRAINERS)
def test_a_trained_sae_of_each_method_is_the_same_function_there(name, lens, tmp_path):
    sae, x = trained(name), WORLD.held_out(1000, 1).x
    to_saelens(sae, tmp_path)
    with torch.no_grad():
        loaded = lens.SAE.load_from_disk(tmp_path)
        torch.testing.assert_close(loaded(x), sae(x).recon, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def layer(tmp_path_factory) -> Source:
    """The middle layer of SmolLM2 on a little prose."""
    words = ["source=lm_layer", "source.n_tokens=6000", "source.n_eval_tokens=600", "device=cpu"]
    words += [f"results={tmp_path_factory.mktemp('layer')}", "source.context_length=64"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("config", overrides=words).source, _convert_="object")


@pytest.mark.network
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TRAINERS)
def test_on_activations_of_a_language_model_it_is_the_same_function_there_and_back(
    name, lens, layer, tmp_path
):
    sae, held = trained_on(layer, TRAINERS[name], 20), layer.held_out(500, 0)
    assert held.outlier is not None
    x = held.x[~held.outlier].float()
    to_saelens(sae, tmp_path)
    with torch.no_grad():
        ours, there, back = sae(x), lens.SAE.load_from_disk(tmp_path), from_saelens(tmp_path)(x)
        # An entry of x is around 1; a row has a norm of dozens.
        torch.testing.assert_close(there(x), ours.recon, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(back.recon, ours.recon, atol=1e-5, rtol=1e-5)


THEIRS: dict[str, dict[str, Any]] = {
    "standard": {"l1_coefficient": 0.1},
    "topk": {"k": 8},
    "gated": {"l1_coefficient": 0.1},
    "jumprelu": {"l0_coefficient": 0.1, "jumprelu_init_threshold": 1.0},
    "batchtopk": {"k": 8, "topk_threshold_lr": 0.5},
    "matryoshka_batchtopk": {"k": 8, "topk_threshold_lr": 0.5, "matryoshka_widths": [10, 40]},
}
"""Rows of the layer are large: thresholds must rise quickly to close a latent in so short a run."""


def trained_by_sae_lens(
    lens: Any, name: str, layer: Source, centre: torch.Tensor, folder: Path
) -> Any:
    """An SAE that their trainer made, saved by it and loaded by them from `folder`."""
    kind, config = lens.registry.get_sae_training_class(name)
    torch.manual_seed(0)
    sae = kind(config(d_in=layer.d_in, d_sae=40, **THEIRS[name]))
    stream = layer.stream(256, 0, torch.device("cpu"))
    rows = iter(lambda: stream.next().float() - centre, None)
    about = import_module("sae_lens.config").SAETrainerConfig(
        total_training_samples=20 * 256, train_batch_size_samples=256, lr=1e-3, lr_end=1e-3
    )
    import_module("sae_lens.training.sae_trainer").SAETrainer(about, sae, rows).fit()
    sae.save_inference_model(folder)
    return lens.SAE.load_from_disk(folder)


@pytest.mark.network
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", THEIRS)
def test_an_sae_that_sae_lens_trained_on_a_language_model_is_the_same_function_here(
    name, lens, layer, tmp_path
):
    held = layer.held_out(500, 0)
    assert held.outlier is not None
    x = held.x[~held.outlier].float()
    centre = x.mean(0)  # around it, since theirs starts at zero and would open all latents or none
    x, theirs = x - centre, trained_by_sae_lens(lens, name, layer, centre, tmp_path)
    with torch.no_grad():
        ours = from_saelens(tmp_path)(x)
        assert 0 < theirs.encode(x).count_nonzero(1).float().mean() < 39
        torch.testing.assert_close(ours.recon, theirs(x), atol=1e-5, rtol=1e-5)
