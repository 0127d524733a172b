"""What a stranger adds from a folder of their own, with no line changed here: run as they would."""

import sys
from pathlib import Path
from textwrap import dedent

import pytest
from test_run import command, records


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder outside the repository, on Python's path, with a config folder in it."""
    place = tmp_path / "theirs"
    (place / "conf/trainer").mkdir(parents=True)
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
