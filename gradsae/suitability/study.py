"""All conditions of the theorem for the activations of a source, and the setting they suggest."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.errors import UserError
from gradsae.interfaces import KnownSource, Source
from gradsae.seeds import Seeds
from gradsae.suitability import conditions, proposal, quantities, references
from gradsae.suitability.conditions import Row
from gradsae.suitability.evidence import Evidence
from gradsae.suitability.proposal import Setting
from gradsae.suitability.quantities import LEAST_ROWS, Raw
from gradsae.suitability.theorem import Verdict
from gradsae.trainers.topk import TopK
from gradsae.training.fit import FitSettings

MAX_ROWS = 1 << 16
MAX_ENTRIES = 1 << 26
"""Rows times d_in that are drawn: 256 MB."""


class Study(NamedTuple):
    """What was found for one source."""

    raw: Raw
    families: dict[str, Evidence]
    """The true features, or each family of reference features, by name."""
    rows: list[Row]
    """One per condition, over all families."""
    settings: dict[str, list[Setting]]
    """The suggested settings, by family."""

    @property
    def overall(self) -> Verdict:
        """The worst verdict of the conditions that count."""
        return conditions.overall(self.rows)


def _silent(message: str) -> None:
    """Log nothing."""


def study(
    source: Source,
    trainer: TopK,
    settings: FitSettings,
    seeds: Seeds,
    device: torch.device,
    log: Callable[[str], None] = _silent,
) -> Study:
    """Judge every condition on held-out rows of a source.

    Where the true features are known they are used. Elsewhere two reference families are made: a
    TopK autoencoder (`trainer`, `settings`), and independent components (minutes on wide data).
    `log` is called with one line before each step that takes long.

    Raises:
        UserError: Too few rows, rows that are all equal, or a reference without features.
    """
    x, families = _evidence(source, trainer, settings, seeds, device, log)
    raw = quantities.raw(x)
    views = {
        name: conditions.findings(evidence, raw, trainer.d_sae)
        for name, evidence in families.items()
    }
    suggested = {
        name: proposal.proposal(conditions.numbers(evidence, raw), raw)
        for name, evidence in families.items()
    }
    return Study(raw, families, conditions.combined(views), suggested)


def _evidence(
    source: Source,
    trainer: TopK,
    settings: FitSettings,
    seeds: Seeds,
    device: torch.device,
    log: Callable[[str], None],
) -> tuple[Float[Tensor, "batch d_in"], dict[str, Evidence]]:
    """Return the rows that are judged, and the features that they are judged by."""
    width = source.held_out(1, seeds.eval).x.shape[1]
    sample = source.held_out(max(LEAST_ROWS, min(MAX_ROWS, MAX_ENTRIES // width)), seeds.eval)
    x = (sample.x if sample.outlier is None else sample.x[~sample.outlier]).float()
    if len(x) < LEAST_ROWS:
        raise UserError(
            f"source {source.name} gives {len(x)} held-out rows, but the estimates need "
            f"{LEAST_ROWS}: ask it for more"
        )
    if float((x - x[0]).abs().max()) == 0:
        raise UserError(f"all rows of source {source.name} are equal: there is nothing to see")
    if isinstance(source, KnownSource):
        truth = references.known(source, sample, seeds.eval)
        if truth is not None:
            return x, {truth.family: truth}
    log(f"first reference family: a TopK autoencoder, {settings.steps} steps")
    learned = references.topk(source, x, trainer, settings, seeds, device)
    size = f"{x.shape[0]} rows of {x.shape[1]}"
    log(f"second: independent components of {size} (minutes)")
    return x, {"topk": learned, "ica": references.ica(x, seeds.eval)}
