"""Files written by earlier versions load, and mean what they meant.

`tests/data/saved` was written by the code of commit 44b0bae: a checkpoint of every gate with its
outputs on five fixed rows, a training state of every method after 3 of 6 steps with the weights
after all 6, and an activation store.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close
from toy import no_log

from gradsae.interfaces import Stream
from gradsae.optim import Optim
from gradsae.sae import model as saes
from gradsae.seeds import make_generator
from gradsae.sources.store import open_store
from gradsae.trainers.batchtopk import BatchTopK
from gradsae.trainers.bias_rule import BiasRule
from gradsae.trainers.gated import Gated
from gradsae.trainers.gba import GBA
from gradsae.trainers.jumprelu import JumpReLU
from gradsae.trainers.l1 import L1
from gradsae.trainers.matryoshka import Matryoshka
from gradsae.trainers.panneal import PAnneal
from gradsae.trainers.peel import Peel
from gradsae.trainers.topk import TopK
from gradsae.training.fit import FitSettings, Training, fit

SAVED = Path(__file__).parent / "data/saved"
CHECKPOINTS = sorted(path.name for path in (SAVED / "checkpoints").iterdir())
INEXACT = ("gated", "gated_tied", "jump_token", "peel", "pursuit", "topk_token")
"""Their arithmetic has roots, exponentials or solves, which differ between machines in the last
bit. That of the others is exact: weights and rows are multiples of 1/8."""
WITHOUT_BIAS = ("peel", "pursuit")
"""Their files held an encoder bias, which took no part; they no longer do."""
OPTIM = Optim(lr=1e-2, warmup=0.2, clip=1.0)
RULE = BiasRule(groups=2, htf=0.3, ltf=0.1, bias_init="quantile", bias_every=2)
COMMON: dict[str, Any] = {"d_sae": 10, "optim": OPTIM}
JUMP: dict[str, Any] = {"threshold": 0.1, "bandwidth": 0.5, "to_input": True}
TRAINERS = {
    "topk": TopK(k=2, dead_after=100, **COMMON),
    "topk_rule": TopK(k=2, rule=RULE, **COMMON),
    "l1": L1(l1=0.1, **COMMON),
    "panneal": PAnneal(l1=0.02, **COMMON),
    "jumprelu": JumpReLU(coefficient=1e-2, **JUMP, **COMMON),
    "jumprelu_rule": JumpReLU(coefficient=0.0, bandwidth=0.0, rule=RULE, **COMMON),
    "gated": Gated(l1=0.02, **COMMON),
    "gba": GBA(groups=2, tied=False, bias_every=2, **COMMON),
    "batchtopk": BatchTopK(k=2, **COMMON),
    "matryoshka": Matryoshka(k=2, prefixes=(0.5, 1.0), **COMMON),
    "peel": Peel(first=2, memory=300, revive_every=2, **COMMON),
}


class SavedStream(Stream):
    """The batches that the saved trainings saw."""

    def __init__(self) -> None:
        self.batches = load_file(SAVED / "batches.safetensors")["batches"]
        self.i = 0

    def next(self):
        self.i += 1
        return self.batches[(self.i - 1) % len(self.batches)]

    def state(self):
        return {"i": torch.tensor(self.i)}

    def restore(self, state):
        self.i = int(state["i"])


@torch.no_grad()
def outputs(folder: Path) -> dict[str, Tensor]:
    sae = saes.load(folder)
    out = sae(load_file(SAVED / "x.safetensors")["x"])
    codes, pre = out.codes.to_dense(), out.pre.to_dense()
    return {"codes": codes, "pre": pre, "recon": out.recon, "decoder": sae.decoder()}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_of_an_earlier_version_gives_the_codes_it_gave(name: str):
    folder = SAVED / "checkpoints" / name
    expected, tolerance = load_file(folder / "outputs.safetensors"), 2e-6 * (name in INEXACT)
    assert_close(outputs(folder), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_is_loaded_and_saved_again_is_the_same(name: str, tmp_path: Path):
    folder = SAVED / "checkpoints" / name
    saes.load(folder).save(tmp_path, saes.read_meta(folder)["extra"])
    before, after = (load_file(each / "sae.safetensors") for each in (folder, tmp_path))
    if name in WITHOUT_BIAS:
        del before["b_enc"]
    assert_close(after, before, rtol=0, atol=0)
    said, again = (saes.read_meta(each) for each in (folder, tmp_path))
    assert again["extra"] == said["extra"] and again["format"] == said["format"]
    settings = {k: v for k, v in said["architecture"].items() if v not in (None, False)}
    if name in WITHOUT_BIAS:
        del settings["pre_bias"]
    assert again["architecture"].items() >= settings.items()


@pytest.mark.parametrize("name", TRAINERS)
def test_a_training_state_of_an_earlier_version_goes_on_to_the_end_it_had(
    name: str, tmp_path: Path
):
    if name == "peel" and not draws_as_then():
        pytest.skip("this torch draws other rows from the same seed")
    trainer, saved = TRAINERS[name], SAVED / "trainings" / name
    (tmp_path / "state.safetensors").write_bytes((saved / "state.safetensors").read_bytes())
    stream = SavedStream()
    sae = trainer.build(stream.batches[0], make_generator(1, "another start"))
    training = Training(trainer, sae, tmp_path)
    fit([training], stream, FitSettings(steps=6, batch_size=64, save_every=3), log=no_log)
    assert stream.i == 6 and training.done == 6
    end = load_file(saved / "end.safetensors")
    if name in WITHOUT_BIAS:
        del end["b_enc"]
    assert_close(dict(sae.state_dict()), end, rtol=1e-4, atol=1e-6)


def draws_as_then() -> bool:
    """Whether torch draws rows, as peel does for new latents, as when the files were saved."""
    drawn = torch.arange(1.0, 65).multinomial(5, generator=torch.Generator().manual_seed(0))
    return drawn.tolist() == [58, 61, 47, 41, 62]


def test_an_activation_store_of_an_earlier_version_opens_and_holds_its_rows():
    store, rows = open_store(SAVED / "store"), load_file(SAVED / "store_rows.safetensors")
    for split, held in (("train", store.train), ("eval", store.eval)):
        assert torch.equal(held.gather(torch.arange(len(held))), rows[split])
