"""What a user gets wrong is answered by one message that names it, before any work is done."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from benchmarks.launch.words import readable
from gradsae.bench.cell import build
from gradsae.bench.experiment import run
from gradsae.errors import DivergedError, UserError
from gradsae.metrics.recovery import Recovery
from gradsae.optim import Optim
from gradsae.sae import model as saes
from gradsae.sae.formats import load
from gradsae.sae.model import make_sae
from gradsae.seeds import make_generator
from gradsae.sources.streams import DrawnStream, ShuffledStream
from gradsae.sources.superposition import Superposition
from gradsae.trainers.topk import TopK
from gradsae.training.fit import FitSettings, Training, fit
from gradsae.training.sample import initial_sample

CONF = Path(__file__).parent.parent / "conf"
WORLD = ["source=synthsaebench_1k", "source.orthogonal_steps=0"]
TINY = ["source=superposition", "source.n_features=20", "source.width=8", "source.l0=2"]


def composed(tmp_path: Path, *words: str):
    common = ["d_sae=16", "k=2", "fit.steps=2", "fit.batch_size=32", "fit.init_rows=64"]
    words = (*common, "tracking=none", "device=cpu", f"results={tmp_path}", *words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(words), return_hydra_config=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [*WORLD, "source.n_roots=1025"],
            "source: n_roots=1025 is more than the n_features=1024 there are",
        ),
        (
            [*WORLD, "source.n_roots=13"],
            "source: 13 trees with branching=4 and depth=3 need 1105 features",
        ),
        (
            [*WORLD, "source.highest_rate=1.5"],
            "source: highest_rate is a share between 0 and 1, got 1.5",
        ),
        (
            [*WORLD, "source.highest_rate=1e-3"],
            "source: rates run from highest_rate=0.001 down to lowest_rate=0.002: that band is",
        ),
        ([*TINY, "source.l0=25"], "source: .*rates must be below 1: lower l0 or exponent"),
        (
            [*TINY, "metric=[coverage]", "metric.coverage.edges=[0.1,0.01]"],
            r"task.metrics.coverage: edges must be two or more rising rates, got \[0.1, 0.01\]",
        ),
        (
            [*TINY, "metric=[coverage]", "metric.coverage.edges=[0.5]"],
            r"task.metrics.coverage: edges must be two or more rising rates, got \[0.5\]",
        ),
        (
            [*TINY, "trainer=gba", "trainer.groups=2", "trainer.htf=1e-3"],
            "trainer: need 0 < ltf <= htf <= 1, got ltf=0.005, htf=0.001",
        ),
        (
            ["row=known_features/forest_1k", "metric=[recovery]"],
            r"metric.detection: it has settings but is not chosen; add it to metric",
        ),
    ],
)
def test_a_world_or_a_band_that_cannot_be_is_refused_by_field_and_value(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build(composed(tmp_path, *words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["device=mps"], "device must be auto, cpu or .* here, got 'mps': "),
        (["device=cuda:99"], "device must be auto, cpu or .* here, got 'cuda:99': "),
        (["device=meta"], "device must be auto, cpu or .* here, got 'meta': "),
        (["device=gpu"], "device must be auto, cpu or .* here, got 'gpu': "),
        (["metric=[]"], r"metric must name at least one, got \[\]"),
        (["fit.batch_size=1"], "fit.batch_size must be a whole number from 2, got 1"),
    ],
)
def test_a_message_names_the_field_that_is_at_fault(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build(composed(tmp_path, *TINY, *words))


@pytest.mark.parametrize("field", ["init_rows", "batch_size"])
def test_rows_that_are_not_stored_are_told_of_the_field_that_asks_for_them(field, monkeypatch):
    def stream(self, batch_size, seed, device):
        return ShuffledStream(lambda i: torch.ones(len(i), 2), 240, batch_size, seed, device)

    monkeypatch.setattr(Superposition, "stream", stream)
    source = Superposition(n_features=20, width=8, l0=2)
    message = f"fit.{field}=256 is more than the 240 stored training rows: .* fit.{field}=240 at"
    with pytest.raises(UserError, match=message):
        if field == "init_rows":
            initial_sample(source, 256, 0)
        else:
            source.stream(256, 0, torch.device("cpu"))


def test_a_batch_without_variance_is_not_called_a_divergence_of_the_rate():
    trainer = TopK(d_sae=16, k=2, optim=Optim(lr=0.01))
    sae = trainer.build(torch.eye(8), make_generator(0, "init"))
    training = Training(trainer, sae)
    stream = DrawnStream(lambda n, _: torch.ones(n, 8), 32, 0, torch.device("cpu"))
    with pytest.raises(DivergedError, match="all rows of the batch are equal"):
        fit([training], stream, FitSettings(steps=3, batch_size=32), log=lambda *_: None)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("results=/tmp/café", "/tmp/café"),
        ("results=/tmp/a(b)", "/tmp/a(b)"),
        ("label=it's", "it's"),
        ("label=a\\b é", "a\\b é"),
        ("label=é\\", "é\\"),
        ("results=/tmp/plain", "/tmp/plain"),
        ("k=3", 3),
    ],
)
def test_a_value_is_read_as_it_stands_whatever_its_letters(word, value):
    (read,) = readable([word])
    assert OverridesParser.create().parse_override(read).value() == value


def test_a_list_that_cannot_be_read_says_where_the_quotes_go():
    with pytest.raises(UserError, match=r"in quotes twice, as in \"label='\.\.\.'\""):
        readable(["label=é,a"])
    assert readable(["--multirun", "-m", "seed=0,1"]) == ["--multirun", "-m", "seed=0,1"]


def test_an_sae_of_another_width_is_told_the_two_widths():
    source = Superposition(n_features=20, width=8, l0=2)
    sae = make_sae(d_in=12, d_sae=16, gate="relu")
    with pytest.raises(UserError, match="activations of width d_in=12, these have 8"):
        Recovery(n_rows=10).measure(sae, source, 0)


def test_a_weight_that_is_not_finite_is_named_and_counted(tmp_path):
    sae = make_sae(d_in=3, d_sae=4, gate="relu")
    with torch.no_grad():
        sae.b_enc[1:3] = torch.nan
    sae.save(tmp_path, {})
    with pytest.raises(UserError, match=r"b_enc must hold finite numbers, 2 of 4 are not$"):
        saes.load(tmp_path)


def changed(folder: Path, **meta: object) -> None:
    path = folder / "sae.json"
    content = json.loads(path.read_text()) | meta
    content.pop("checksum", None)  # of before the change
    path.write_text(json.dumps(content))


def test_a_checkpoint_of_another_version_or_of_something_else_is_named(tmp_path):
    make_sae(d_in=3, d_sae=4, gate="relu").save(tmp_path, {})
    changed(tmp_path, format=99)
    with pytest.raises(UserError, match=r"sae\.json: checkpoint format must be 1, got 99"):
        saes.load(tmp_path)
    changed(tmp_path, format=1, architecture={"d_in": 3, "d_sae": 4, "gate": "sigmoid"})
    with pytest.raises(UserError, match=r"sae\.json: bad architecture: "):
        saes.load(tmp_path)
    changed(tmp_path, architecture={"d_in": 3, "d_sae": 5, "gate": "relu"})
    with pytest.raises(UserError, match="weights do not fit the architecture"):
        saes.load(tmp_path)
    with pytest.raises(UserError, match=r"no SAE here \(sae\.json is missing\)"):
        saes.load(tmp_path / "elsewhere")


def test_a_cell_whose_checkpoint_is_of_another_version_says_so_and_keeps_it(tmp_path):
    cell = build(composed(tmp_path, *TINY, "metric=[reconstruction]"))
    assert run(cell).status == "done"
    (folder,) = (tmp_path / "checkpoints").iterdir()
    changed(folder, format=0)
    before = sorted(path.read_bytes() for path in folder.iterdir())
    other = build(composed(tmp_path, *TINY, "metric=[recovery]"))
    with pytest.raises(UserError, match=rf"must be 1, got 0.*; delete {folder} to retrain"):
        run(other)
    assert sorted(path.read_bytes() for path in folder.iterdir()) == before


def test_our_own_checkpoint_says_where_it_was_trained_and_is_refused_elsewhere(tmp_path):
    tiny = ["source=lm_tiny", "metric=[reconstruction]"]
    assert run(build(composed(tmp_path, *tiny))).status == "done"
    (folder,) = (tmp_path / "checkpoints").iterdir()
    assert load.load(folder).place == ("tiny_random", "resid_post", 2)
    given = ["trainer=pretrained", "trainer.d_sae=16", f"trainer.folder={folder}"]
    there = ["source.layer=1", "trainer.site=resid_post.1"]
    with pytest.raises(UserError, match=r"files say resid_post\.2, trainer\.site=resid_post\.1"):
        run(build(composed(tmp_path, *tiny, *given, *there)))
    other = ["trainer.site=resid_post.2", "trainer.model=smollm2", "source.model.name=smollm2"]
    with pytest.raises(UserError, match=r"files say model tiny_random, trainer\.model=smollm2"):
        run(build(composed(tmp_path, *tiny, *given, *other)))
    unsaid = ["trainer.site=resid_post.2", "source.model.name=smollm2"]
    with pytest.raises(UserError, match=r"files say model tiny_random, source\.model=smollm2"):
        run(build(composed(tmp_path, *tiny, *given, *unsaid)))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [folder.name]
    assert len(list((tmp_path / "records").iterdir())) == 1
