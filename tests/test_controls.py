"""Controls: what their atoms are, that nothing trains them, and that the ceiling is one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from scipy.optimize import nnls
from toy import OPTIM, no_log

from gradsae.bench.cell import build
from gradsae.bench.experiment import run
from gradsae.records.record import load
from gradsae.sae.directions import random_directions
from gradsae.sae.kernels.pursuit import pursue
from gradsae.sae.model import load as load_sae
from gradsae.sae.pursuit import PursuitCoder
from gradsae.seeds import Seeds, make_generator
from gradsae.sources.forest import Forest
from gradsae.sources.superposition import Superposition
from gradsae.trainers.controls import Control
from gradsae.trainers.topk import TopK
from gradsae.training import checkpoints
from gradsae.training.fit import FitSettings

CONF = Path(__file__).parent.parent / "conf"
SOURCE = Superposition(n_features=40, width=24, l0=3)
FOREST = Forest(n_features=60, width=40, n_roots=4, branching=3, depth=2, bias=2.0)
CONTROLS = [
    Control(atoms="random", d_sae=20, k=3),
    Control(atoms="pca", d_sae=20, k=3),
    Control(atoms="random", d_sae=20, k=3, encoder="pursuit"),
    Control(atoms="features", d_sae=1, k=6, encoder="pursuit", truth=SOURCE),
]


def built(trainer: Control, seed: int = 0):
    sample = SOURCE.stream(2048, seed, torch.device("cpu")).next()
    return trainer.build(sample, make_generator(seed, "init")), sample


@pytest.mark.parametrize("control", CONTROLS, ids=lambda t: f"{t.name}-{t.encoder}")
def test_a_control_takes_no_step_beside_an_sae_that_does(control, tmp_path):
    fit = FitSettings(steps=4, batch_size=256, init_rows=2048, log_every=1, save_every=2)
    learner = TopK(d_sae=8, k=2, optim=OPTIM)
    done = checkpoints.train(
        [
            checkpoints.Request(
                source=SOURCE,
                method=method,
                settings=fit,
                seeds=Seeds(),
                root=tmp_path,
                device=torch.device("cpu"),
            )
            for method in (control, learner)
        ],
        no_log,
    )
    kept, trained = done
    assert isinstance(kept, checkpoints.Checkpoint) and isinstance(trained, checkpoints.Checkpoint)
    assert kept.curve == {"step": []} and trained.curve["step"] == [0, 1, 2, 3]
    built_alone = built(control)[0].state_dict()
    assert all(torch.equal(t, built_alone[name]) for name, t in kept.sae.state_dict().items())
    assert not hasattr(control, "optim")


@pytest.mark.parametrize("trainer", CONTROLS, ids=lambda t: f"{t.name}-{t.encoder}")
def test_saved_and_loaded_is_the_same_function(trainer, tmp_path):
    sae, x = built(trainer)
    sae.save(tmp_path, {})
    assert torch.equal(load_sae(tmp_path)(x).recon, sae(x).recon)


def test_principal_atoms_are_numpys_with_both_signs_by_falling_variance():
    sae, x = built(CONTROLS[1])
    _, _, axes = np.linalg.svd((x - x.mean(0)).double().numpy(), full_matrices=False)
    cosine = sae.decoder().double().numpy() @ axes.T
    assert np.abs(cosine).argmax(1).tolist() == [i // 2 for i in range(20)]
    assert np.allclose(np.abs(cosine).max(1), 1, atol=1e-5)
    assert (cosine.max(1) > 0.9).sum() == 10  # the other ten are their negatives
    torch.testing.assert_close(sae.b_dec, x.mean(0))


def test_all_principal_axes_together_rebuild_everything():
    sae, x = built(Control(atoms="pca", d_sae=100, k=48))
    assert sae.d_sae == 48
    torch.testing.assert_close(sae(x).recon, x, atol=1e-5, rtol=1e-4)


def test_independent_components_find_independent_sources(generator):
    true = random_directions(6, 6, generator)
    loudness = torch.empty(4000, 6).exponential_(generator=generator)
    x = loudness @ true
    sae = Control(atoms="ica", d_sae=12, k=12).build(x, generator)
    cosine = sae.decoder() @ true.T
    assert (cosine.max(0).values > 0.99).all()
    torch.testing.assert_close(sae(x).recon, x, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("source", "norm"), [(FOREST, 2.0), (SOURCE, 0.0)])
def test_the_ceiling_takes_off_what_its_source_adds_to_every_row(source, norm):
    sae = Control(atoms="features", d_sae=1, k=9, encoder="pursuit", truth=source)
    held = source.held_out(500, 0)
    built = sae.build(held.x, torch.Generator())
    truth, b_dec = held.truth.to_dense(), built.get_parameter("b_dec")
    torch.testing.assert_close(b_dec.norm(), torch.tensor(norm))
    torch.testing.assert_close(held.x - truth @ source.features(), b_dec.expand_as(held.x))


def test_with_its_bias_known_the_ceiling_finds_the_codes_and_without_does_not():
    held, right = FOREST.held_out(500, 0), {}
    assert held.truth is not None
    on = held.truth.to_dense() > 0
    for centre in (True, False):
        trainer = Control(
            atoms="features", d_sae=1, k=12, encoder="pursuit", truth=FOREST, centre=centre
        )
        codes = trainer.build(held.x, torch.Generator())(held.x).codes.to_dense()
        right[centre] = ((codes > 1e-3) == on).all(1).double().mean()
    assert right[True] > 0.8 > 0.2 > right[False]


def test_pursuit_of_orthogonal_atoms_is_projection(generator):
    basis = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    true = torch.tensor([[0.0, 2.0, 0.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 5])
    codes = pursue(true @ basis, basis, k=4, tolerance=1e-3)
    torch.testing.assert_close(codes.to_dense(), true, atol=1e-5, rtol=1e-5)
    assert codes.offsets.diff().tolist() == [2, 1, 0]


def test_pursuit_finds_the_codes_and_agrees_with_least_squares(monkeypatch):
    monkeypatch.setattr("gradsae.sae.kernels.pursuit.ELEMENTS", 3000)  # several chunks of rows
    held = SOURCE.held_out(300, 0)
    assert held.truth is not None
    codes = pursue(held.x, SOURCE.features(), k=6, tolerance=1e-3)
    found, true = codes.to_dense(), held.truth.to_dense()
    right = ((found > 1e-3) == (true > 0)).all(1)
    assert right.double().mean() > 0.9
    for row in right.nonzero()[:10, 0].tolist():
        features = SOURCE.features()[true[row] > 0].double().numpy()
        expected, _ = nnls(features.T, held.x[row].double().numpy())
        assert np.allclose(found[row][true[row] > 0].numpy(), expected, atol=1e-4)


def test_pursuit_equals_the_textbook_row_by_row(generator):
    atoms = random_directions(60, 16, generator)
    atoms[1] = atoms[0]  # equal atoms: the second one adds nothing
    x = torch.randn(20, 16, generator=generator)
    codes = pursue(x, atoms, k=7, tolerance=0.3).to_dense().double().numpy()
    for row, found in zip(x.double().numpy(), codes, strict=True):
        left, chosen, best, D = row, [], np.zeros(0), atoms.double().numpy()
        while len(chosen) < 7 and np.linalg.norm(left) > 0.3 * np.linalg.norm(row):
            fit = D @ left
            fit[chosen] = -np.inf
            chosen.append(int(fit.argmax()))
            best = np.linalg.lstsq(D[chosen].T, row, rcond=None)[0]
            left = row - best @ D[chosen]
        assert found[chosen] == pytest.approx(best, abs=1e-4)
        assert np.abs(np.delete(found, chosen)).max() == 0


def test_pursuit_stops_at_k_and_at_the_tolerance():
    x = torch.tensor([[4.0, 3.0, 0.1]])
    assert pursue(x, torch.eye(3), k=1, tolerance=0.0).latents.tolist() == [0]
    assert pursue(x, torch.eye(3), k=3, tolerance=0.05).latents.tolist() == [0, 1]
    assert pursue(-x, torch.eye(3), k=3, tolerance=0.05).latents.tolist() == []


def composed(tmp_path, *words: str):
    tiny = ["source=superposition", "source.n_features=40", "source.width=24", "source.l0=3"]
    if any(word.startswith("source=") for word in words):
        tiny = []
    tiny += ["d_sae=40", "k=3", "fit.steps=30", "fit.batch_size=64", "fit.init_rows=512"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = (*tiny, "tracking=none", "device=cpu", f"results={tmp_path}", *words)
        return build(compose("config", overrides=list(words), return_hydra_config=True))


def test_controls_go_through_the_same_records_as_trained_saes(tmp_path):
    scores = {}
    for name in ("topk", "random", "pca", "ceiling"):
        outcome = run(composed(tmp_path, f"trainer={name}"))
        assert outcome.record is not None
        record = load(outcome.record)
        assert record.config["trainer"]["name"] == name
        scores[name] = record.scores
    assert all(set(s) == set(scores["topk"]) for s in scores.values())
    assert scores["ceiling"]["detection/f1"] > 0.95 > scores["random"]["detection/f1"]
    assert scores["ceiling"]["recovery/frr_0.9"] == 1.0 > scores["random"]["recovery/frr_0.9"]


def test_the_ceiling_does_not_apply_without_known_features(tmp_path):
    outcome = run(composed(tmp_path, "trainer=ceiling", "source=lm_tiny"))
    assert outcome.status == "does not apply"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Control(atoms="random", d_sae=4, k=0), "k must be .*got 0"),
        (lambda: Control(atoms="random", d_sae=4, k=1, tolerance=2.0), "tolerance .*got 2"),
        (lambda: built(Control(atoms="features", d_sae=4, k=1)), "whose features are known"),
        (lambda: PursuitCoder(2, 4, 5, 0.1), r"k \(with gate=pursuit\) .*from 1 to 4, got 5"),
        (lambda: PursuitCoder(2, 4, 1, 1.5), "tolerance .*got 1.5"),
    ],
)
def test_bad_values_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
