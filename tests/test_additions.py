"""What a stranger adds from a folder of their own, with no line changed here: run as they would."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from test_run import command, records

from benchmarks.leaderboard import __main__ as leaderboard


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder outside the repository, on Python's path, with a config folder in it."""
    place = tmp_path / "theirs"
    for group in ("trainer", "metric", "source", "task", "estimators"):
        (place / "conf" / group).mkdir(parents=True)
    monkeypatch.syspath_prepend(str(place))
    yield place
    for name in [path.stem for path in place.glob("*.py")]:
        sys.modules.pop(name, None)


def write(path: Path, text: str) -> None:
    path.write_text(dedent(text).lstrip())


def test_a_method_with_an_encoder_of_its_own_is_two_files(folder, tmp_path, monkeypatch):
    """It trains, its checkpoint is found by another task, and both records bear its name."""
    write(
        folder / "soft_sae.py",
        '''
        """One step of soft thresholding over atoms of norm 1."""

        from dataclasses import dataclass

        import torch
        from torch import nn
        from torch.nn.functional import normalize

        from gradsae.about import About
        from gradsae.interfaces import Loss, Trainer
        from gradsae.optim import Optim
        from gradsae.sae.dictionary import Dictionary


        class SoftSAE(Dictionary):
            def __init__(self, d_in, d_sae, threshold):
                super().__init__(d_in, d_sae)
                self.D, self.threshold = nn.Parameter(torch.zeros(d_sae, d_in)), threshold

            def encode(self, x):
                return (x @ self.D.mT - self.threshold).relu()

            def decoder(self):
                return self.D


        @dataclass(frozen=True, kw_only=True)
        class Soft(Trainer[SoftSAE]):
            d_sae: int
            optim: Optim
            threshold: float = 0.2

            @property
            def name(self):
                return "soft"

            @property
            def about(self):
                return About(label="Soft threshold")

            def blank(self, d_in):
                return SoftSAE(d_in, self.d_sae, self.threshold)

            def build(self, sample, generator):
                sae = self.blank(sample.shape[1])
                sae.D.data.normal_(generator=generator)
                sae.D.data.copy_(normalize(sae.D.data, dim=1))
                return sae

            def loss(self, sae, out, progress):
                error = (out.x_in - out.recon_in).square().sum(1).mean()
                return Loss(error, {"error": error.detach()})

            def after_step(self, sae, out, progress):
                sae.D.copy_(normalize(sae.D, dim=1))
        ''',
    )
    write(
        folder / "conf/trainer/soft.yaml",
        """
        _target_: soft_sae.Soft
        d_sae: ${d_sae}
        optim:
          _target_: gradsae.optim.Optim
          lr: ${lr}
        """,
    )
    words = (f"--config-dir={folder / 'conf'}", "trainer=soft")
    assert command(monkeypatch, tmp_path / "results", *words) == 0
    assert command(monkeypatch, tmp_path / "results", *words, "task=consistency") == 0
    found = {record.task["name"]: record for record in records(tmp_path / "results")}
    assert set(found) == {"recovery", "consistency"}
    assert all(record.config["trainer"]["name"] == "soft" for record in found.values())
    assert found["recovery"].scores["recovery/mcc"] > 0
    first = found["recovery"].artifacts["checkpoint"]
    assert found["consistency"].artifacts["checkpoint"] == first
    assert "linear encoder" in found["consistency"].skipped["consistency/mcs_0.9/top_z_5"]


def write_firm(folder: Path) -> None:
    """Write a trainer of two files, and nothing else."""
    write(
        folder / "firm.py",
        '''
        """The k largest projections onto directions that are also written, learned by Adam."""

        from dataclasses import dataclass

        from gradsae.about import About
        from gradsae.interfaces import Loss, Trainer
        from gradsae.optim import Optim
        from gradsae.sae.kernels.gates.topk import TopKGate
        from gradsae.sae.model import SAE, Architecture


        @dataclass(frozen=True, kw_only=True)
        class Firm(Trainer):
            d_sae: int
            k: int
            optim: Optim

            @property
            def name(self):
                return "firm"

            @property
            def about(self):
                return About(label="Firm shrinkage")

            def build(self, sample, generator):
                arch = Architecture(d_in=sample.shape[1], d_sae=self.d_sae, tied=True)
                sae = SAE(arch, TopKGate(k=self.k))
                sae.W_enc.data.normal_(std=0.1, generator=generator)
                return sae

            def loss(self, sae, out, progress):
                error = (out.x_in - out.recon_in).square().sum(1).mean()
                return Loss(error, {"error": error.detach()})

            def after_step(self, sae, out, progress):
                pass
        ''',
    )
    write(
        folder / "conf/trainer/firm.yaml",
        """
        _target_: firm.Firm
        d_sae: ${d_sae}
        k: ${k}
        optim: {lr: 0.01}
        """,
    )


def test_a_method_with_a_gate_of_ours_is_two_files(folder, tmp_path, monkeypatch, capsys):
    write_firm(folder)
    words = (f"--config-dir={folder / 'conf'}", "trainer=firm", "trainer.k=3")
    assert command(monkeypatch, tmp_path / "results", *words) == 0
    (record,) = records(tmp_path / "results")
    assert (record.config["trainer"]["name"], record.config["trainer"]["k"]) == ("firm", 3)
    assert record.scores["sparsity/l0"] <= 3
    assert (
        record.series["training/curve"]["error"][-1] < record.series["training/curve"]["error"][0]
    )
    assert "Firm shrinkage" in table_of(capsys)


def write_longest(folder: Path) -> None:
    """Write a metric of two files, and nothing else."""
    write(
        folder / "longest.py",
        '''
        """The longest reconstruction."""

        from dataclasses import dataclass

        from gradsae.about import Score
        from gradsae.interfaces import Metric, Scores


        @dataclass(frozen=True, kw_only=True)
        class Longest(Metric):
            n_rows: int = 64

            SCORES = (
                Score(name="longest/norm", header="longest", better="lower", meaning="Norm."),
            )

            def measure(self, sae, source, seed):
                recon = sae(source.held_out(self.n_rows, seed).x).recon
                return Scores(scores={"longest/norm": recon.norm(dim=1).max().item()})
        ''',
    )
    write(folder / "conf/metric/longest.yaml", "longest: {_target_: longest.Longest}")


def test_a_metric_is_two_files(folder, tmp_path, monkeypatch, capsys):
    write_longest(folder)
    words = (f"--config-dir={folder / 'conf'}", "metric=[recovery,longest]", "trainer=random")
    more = "metric.longest.n_rows=32"
    assert command(monkeypatch, tmp_path / "results", *words, more) == 0
    (record,) = records(tmp_path / "results")
    assert record.config["ask"]["longest"] == {"n_rows": 32}
    assert record.scores["longest/norm"] > 0
    head = table_of(capsys).splitlines()[1]
    assert "MCC" in head and "longest" in head


def test_additions_stand_on_the_board_with_their_notes_and_in_figures(
    folder, tmp_path, monkeypatch
):
    write_firm(folder)
    write_longest(folder)
    words = (f"--config-dir={folder / 'conf'}", "trainer=firm,topk", "trainer.k=3")
    words = (*words, "metric=[recovery,reconstruction,longest]", "seed=0,1,2")
    assert command(monkeypatch, tmp_path / "results", "-m", *words) == 0
    for name in ("firm", "longest"):  # the board has neither the files nor the classes
        sys.modules.pop(name, None)
        (folder / f"{name}.py").unlink()
    out = tmp_path / "site"
    argv = ["x", "--records", str(tmp_path / "results" / "records"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", argv)
    leaderboard.main()
    page = (out / "index.html").read_text()
    row = page.partition(">Firm shrinkage k=3</th>")[2].partition("</tr>")[0]
    assert 'data-value="' in row and "±" in row
    notes = page.partition('id="notes"')[2]
    assert "longest <code>longest/norm</code>" in notes and "Norm. Range" in notes
    drawn = [path.stem for path in (out / "figures").glob("*.svg") if "Firm" in legend(path)]
    assert "recovery" in drawn


def legend(path: Path) -> str:
    """Return the texts of a figure, which matplotlib leaves in comments beside their outlines."""
    return " ".join(re.findall(r"<!-- (.*?) -->", path.read_text()))


def test_a_source_is_two_files(folder, tmp_path, monkeypatch, capsys):
    write(
        folder / "stripes.py",
        '''
        """Rows along one of the axes."""

        from dataclasses import dataclass
        from typing import ClassVar

        import torch

        from gradsae.interfaces import HeldOut, Source
        from gradsae.seeds import make_generator
        from gradsae.sources.streams import DrawnStream


        @dataclass(frozen=True, kw_only=True)
        class Stripes(Source):
            name: ClassVar[str] = "stripes"

            width: int = 6
            seed: int = 0

            @property
            def d_in(self):
                return self.width

            def rows(self, n, generator):
                axes = torch.eye(self.width)
                return axes[torch.randint(self.width, (n,), generator=generator)]

            def stream(self, batch_size, seed, device):
                return DrawnStream(self.rows, batch_size, seed, device)

            def held_out(self, n, seed):
                return HeldOut(self.rows(n, make_generator(seed, "eval")))

            def identity(self):
                return {"version": 1, **vars(self)}

            def provenance(self):
                return {"kind": "synthetic"}
        ''',
    )
    write(folder / "conf/source/stripes.yaml", "_target_: stripes.Stripes\nseed: ${seeds.world}")
    words = (f"--config-dir={folder / 'conf'}", "source=stripes", "source.width=5", "seed=3")
    assert command(monkeypatch, tmp_path / "results", *words, "trainer=topk") == 0
    (record,) = records(tmp_path / "results")
    assert record.config["source"] == {"name": "stripes", "version": 1, "width": 5, "seed": 3}
    assert record.skipped["recovery"] and record.scores["reconstruction/fvu"] < 1
    assert "on stripes" in table_of(capsys)


def test_a_task_is_two_files(folder, tmp_path, monkeypatch, capsys):
    write(
        folder / "twice.py",
        '''
        """Does an SAE say the same of what it has written as of what it has read?"""

        from dataclasses import dataclass
        from typing import ClassVar

        from gradsae.about import Score
        from gradsae.interfaces import SAETask, Scores


        @dataclass(frozen=True, kw_only=True)
        class Twice(SAETask):
            name: ClassVar[str] = "twice"
            headline: ClassVar[tuple[str, ...]] = ("twice/error",)
            SCORES: ClassVar[tuple[Score, ...]] = (
                Score(name="twice/error", header="second error", better="lower", meaning="Sum."),
            )

            n_rows: int = 64

            def measure(self, sae, source, seed):
                once = sae(source.held_out(self.n_rows, seed).x).recon
                error = (sae(once).recon - once).square().sum()
                return Scores(scores={"twice/error": error.item()})
        ''',
    )
    write(folder / "conf/task/twice.yaml", "_target_: twice.Twice")
    words = (f"--config-dir={folder / 'conf'}", "task=twice", "task.n_rows=16", "trainer=topk,l1")
    assert command(monkeypatch, tmp_path / "results", "-m", *words) == 0
    found = records(tmp_path / "results")
    assert [record.task for record in found] == [{"name": "twice", "version": 1}] * 2
    assert all(record.config["ask"] == {"n_rows": 16} for record in found)
    table = table_of(capsys)
    assert "twice, version 1" in table and "second error" in table and "TopK" in table


def test_an_estimator_is_two_files(folder, tmp_path, monkeypatch, capsys):
    write(
        folder / "peak.py",
        '''
        """The largest activation over positions."""

        from dataclasses import dataclass

        from gradsae.about import About
        from gradsae.influence.estimator import Estimator


        @dataclass(frozen=True, kw_only=True)
        class Peak(Estimator):
            name = "peak"
            in_units = False
            about = About(label="peak act")

            def scores(self, seen, target, generator):
                return seen.codes.max(0).values
        ''',
    )
    write(folder / "conf/estimators/peak.yaml", "peak: {_target_: peak.Peak}")
    words = (
        *(f"--config-dir={folder / 'conf'}", "task=influence", "estimators=[default,peak]"),
        *("source=lm_tiny", "trainer=topk", "d_sae=48", "k=8", "fit.batch_size=32"),
        "fit.init_rows=64",
        *("task.prompts.n_prompts=2", "task.prompts.length=8"),
    )
    assert command(monkeypatch, tmp_path / "results", *words) == 0
    (record,) = records(tmp_path / "results")
    assert {"class": "Peak"} in record.config["ask"]["estimators"]
    assert -1 <= record.scores["influence/spearman/peak"] <= 1
    assert "peak act" in table_of(capsys)


def table_of(capsys) -> str:
    """Return the paragraph that a run prints at its end: its table."""
    paragraphs = capsys.readouterr().out.strip().split("\n\n")
    return next(text for text in reversed(paragraphs) if ", version " in text)
