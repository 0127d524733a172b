"""Before training GBA: do these activations meet the conditions of its theorem?"""

from torch import Tensor

from gradsae import checks
from gradsae.api.table import Table
from gradsae.api.train import make_source
from gradsae.interfaces import Source
from gradsae.seeds import Seeds
from gradsae.suitability import references
from gradsae.suitability.study import Study, study
from gradsae.training.fit import FitSettings

NOTE = (
    "The conditions are sufficient and not necessary: data that misses some may still be "
    "recovered. The column `counts` says which of them decide the verdict."
)
REFERENCES = (
    "Seen through reference dictionaries: latents that split or mix features fire together and at "
    "other rates, so even a verdict on which both families agree may be theirs and not the data's."
)


def suitability(
    source: str | Source | Tensor,
    *,
    d_sae: int = 1024,
    k: int = 32,
    lr: float = 1e-3,
    steps: int = 2000,
    batch_size: int = 512,
    seed: int = 0,
    device: str = "auto",
) -> Table:
    """Check the conditions under which GBA is proved to recover features, and propose a setting.

    The conditions are those of Chen et al. 2025, https://arxiv.org/abs/2506.14002, Definition 5.2
    and Theorem 6.1. Where the true features are not known, two families of reference features
    stand for them: a small TopK autoencoder that is trained here, and independent components.

    Args:
        source: Activations as a matrix [n, d_in] with at least 100 rows, a source object, or the
            name of a source.
        d_sae: Latents of the reference autoencoder.
        k: Its active latents per row.
        lr: Its peak learning rate.
        steps: Its optimiser steps.
        batch_size: Activations in one of its batches.
        seed: Fixes the rows, the reference autoencoder and ICA.
        device: Where the reference autoencoder is trained: "auto", "cpu" or "cuda".

    Returns:
        A table with one row per condition: `condition`, `verdict` ("met", "doubtful" or
        "not met"), `estimate` with its 95 % interval, what the theorem `wants`, `why`, and
        whether it `counts` for the overall verdict in the title. Its part `proposal` has the
        settings of `train("gba", ...)` that follow, with the reason of each.

    Raises:
        UserError: Too few rows, rows that are all equal, or a reference that finds no features.

    Example:
        >>> table = gradsae.suitability(activations)
        >>> print(table.parts["proposal"])
    """
    place = make_source(source, seed)
    if isinstance(source, Tensor):
        batch_size = min(batch_size, len(source))
    rows = len(source) if isinstance(source, Tensor) else 8192
    length = FitSettings(steps=steps, batch_size=batch_size, init_rows=min(8192, rows))
    seeds = Seeds(world=seed, data=seed, init=seed, eval=seed)
    trainer = references.trainer_of(d_sae, k, lr)
    answer = study(place, trainer, length, seeds, checks.device(device))
    return _table(place.about.label, answer)


def _table(label: str, answer: Study) -> Table:
    """Return the conditions as a table, with the proposed setting below."""
    family, settings = next(iter(answer.settings.items()))
    return Table(
        title=f"Suitability of {label} for GBA: {answer.overall}",
        columns={
            "condition": [row.name for row in answer.rows],
            "verdict": [row.verdict for row in answer.rows],
            "estimate": [row.estimate for row in answer.rows],
            "wants": [row.wants for row in answer.rows],
            "counts": [row.counts for row in answer.rows],
            "why": [row.why for row in answer.rows],
        },
        headers={"wants": "the theorem wants"},
        notes=[NOTE, *([REFERENCES] if len(answer.families) > 1 else [])],
        parts={
            "proposal": Table(
                title=f"Proposed setting (from {family})",
                columns={
                    "setting": [_word(setting.override) for setting in settings],
                    "why": [setting.why for setting in settings],
                },
            )
        },
    )


def _word(override: str) -> str:
    """Return a word of the command line as `train` takes it: `htf=0.05`, `method=gba`."""
    return override.removeprefix("trainer.").replace("trainer=", "method=")
