"""sae-lens's own evaluation of an SAE, on the held-out rows that our metrics see."""

import logging
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.synthsaebench.terms import TERMS
from gradsae.errors import UserError
from gradsae.metrics.truth import Truth
from gradsae.sae.codes import SparseCodes, from_dense
from gradsae.sae.dictionary import Dictionary
from gradsae.sae.formats.saelens import to_saelens

INSTALL = "python -m pip install 'sae-lens>=6.50'"
BATCH = 1024
"""Rows that they score at a time, with dense codes of all features."""


class Evaluation(NamedTuple):
    scores: dict[str, float]
    """By their names."""
    encoder: str
    """Whose encoder was scored: the SAE that sae-lens loaded, or ours and why."""


@final
class HeldRows:
    """Held-out rows as sae-lens asks for them: `sample` gives true codes, a call their activations.

    Both their generator and their dictionary of features, so that the activations are ours to the
    last bit.
    """

    def __init__(self, truth: Truth) -> None:
        self.feature_vectors = truth.features
        self._truth, self._end = truth, 0

    def sample(self, n: int) -> Float[Tensor, "n n_features"]:
        start, self._end = self._end, self._end + n
        codes, ends = self._truth.codes, self._truth.codes.offsets[start : self._end + 1]
        entries = slice(int(ends[0]), int(ends[-1]))
        part = SparseCodes(
            values=codes.values[entries],
            latents=codes.latents[entries],
            offsets=ends - ends[0],
            d_sae=codes.d_sae,
        )
        return part.to_dense()

    def __call__(self, codes: Float[Tensor, "n n_features"]) -> Float[Tensor, "n d_in"]:
        return self._truth.x[self._end - len(codes) : self._end]


@final
class OurEncoder(nn.Module):
    """An SAE of ours with the surface that their evaluation asks for."""

    def __init__(self, sae: Dictionary) -> None:
        super().__init__()
        self.sae, self.W_dec = sae, sae.decoder()

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        return self.sae.codes(x).to_dense()

    def decode(self, codes: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_in"]:
        return self.sae.decode(from_dense(codes))


def is_installed() -> bool:
    """Return whether sae-lens is there to be imported."""
    return find_spec("sae_lens") is not None


@torch.no_grad()
def evaluate(sae: Dictionary, truth: Truth) -> Evaluation:
    """Return what sae-lens gives the SAE on these rows, all on the CPU.

    The SAE is exported and loaded by sae-lens. One that their format cannot say is scored through
    its encoder of ours.
    """
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    theirs = import_module("sae_lens.synthetic.evals").eval_sae_on_synthetic_data
    rows, n_rows = HeldRows(truth), len(truth.x)
    with TemporaryDirectory() as folder:
        loaded, encoder = _loaded(sae.cpu(), Path(folder))
    result = theirs(loaded, rows, rows, num_samples=n_rows, batch_size=min(BATCH, n_rows))
    given = vars(result) | vars(result.classification)
    return Evaluation({term.name: float(given[term.name]) for term in TERMS}, encoder)


def _loaded(sae: Dictionary, folder: Path) -> tuple[Any, str]:
    """Return the SAE that sae-lens loads, or ours with the reason why it cannot."""
    try:
        to_saelens(sae, folder)
    except UserError as error:
        return OurEncoder(sae), f"our encoder ({error})"
    return import_module("sae_lens").SAE.load_from_disk(str(folder)), "exported, loaded by sae-lens"
