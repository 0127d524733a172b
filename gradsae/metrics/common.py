"""What several metrics share: passes in bounded memory, names of controls, bootstrap intervals."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.errors import UserError
from gradsae.interfaces import HeldOut, Scores, Source
from gradsae.metrics.once import is_sharing, once
from gradsae.sae.codes import Codes
from gradsae.sae.dictionary import Dictionary, Pass
from gradsae.seeds import make_generator
from gradsae.stats.bootstrap import percentiles, resampled_means

PASS_ENTRIES = 2**24
"""Rows times latents of one pass: 64 MB where the codes are dense."""
STORED_VALUES = 2**24
"""Most stored values of one SAE's codes that are stored for the next metric."""
N_BLOCKS = 512
"""Most units that a bootstrap resamples."""

Value = TypeVar("Value")


class Rows(NamedTuple):
    """Some consecutive rows, encoded."""

    start: int
    codes: Codes


def held_out(source: Source, n: int, seed: int) -> HeldOut:
    """Return the source's held-out rows; all metrics of one cell get the same ones."""
    return once("held out", source, n, seed, make=lambda: source.held_out(n, seed))


@torch.no_grad()
def encode(sae: Dictionary, x: Float[Tensor, "batch d_in"]) -> Iterator[Rows]:
    """Yield the codes of raw activations, some rows at a time, on the SAE's device.

    Where metrics share (`once.py`), the first STORED_VALUES are encoded once.
    """
    stored: list[Rows] = once("codes", sae, x, make=list)
    yield from stored
    n_kept = sum(rows.codes.n_rows for rows in stored)
    room = STORED_VALUES - sum(rows.codes.values.numel() for rows in stored) if is_sharing() else 0
    for start, chunk in _chunks(sae, x, n_kept):
        rows = Rows(start, sae.codes(chunk))
        room -= rows.codes.values.numel()
        if room >= 0:
            stored.append(rows)
        yield rows


@torch.no_grad()
def forward(sae: Dictionary, x: Float[Tensor, "batch d_in"]) -> Iterator[Pass]:
    """Yield the forward passes of raw activations, some rows at a time, on the SAE's device."""
    for _, chunk in _chunks(sae, x):
        yield sae(chunk)


def _chunks(
    sae: Dictionary, x: Float[Tensor, "batch d_in"], first: int = 0
) -> Iterator[tuple[int, Float[Tensor, "chunk d_in"]]]:
    if x.shape[1] != sae.d_in:
        raise UserError(
            f"this SAE reads activations of width d_in={sae.d_in}, these have {x.shape[1]}: "
            "it was trained on another source"
        )
    n_rows = max(1, min(4096, PASS_ENTRIES // sae.d_sae))
    for start in range(first, len(x), n_rows):
        yield start, x[start : start + n_rows].to(sae.device, sae.dtype)


def count_fired(sae: Dictionary, x: Float[Tensor, "batch d_in"]) -> Int[Tensor, " d_sae"]:
    """Return the number of rows on which each latent fires; on the CPU."""
    counts = torch.zeros(sae.d_sae, dtype=torch.int64)
    for _, codes in encode(sae, x):
        counts += codes.fired().cpu()
    return counts


def directions(sae: Dictionary) -> Float[Tensor, "d_sae d_in"]:
    """Return the direction that each latent writes; the normaliser does not turn it."""
    return sae.decoder().detach().float()


def chance_control(sae: Dictionary, seed: int) -> Dictionary:
    """Return the control of an SAE for one seed; the same one for every metric."""
    generator = make_generator(seed, "eval random directions")
    return once("chance", sae, seed, make=lambda: sae.chance(generator))


def control_name(name: str, control: str = "chance") -> str:
    """Return `kind/score/chance`, or `kind/score/variant_chance` for the score of a variant."""
    return f"{name}_{control}" if name.count("/") == 2 else f"{name}/{control}"


def merge(parts: Sequence[Scores]) -> Scores:
    """Return the scores of several parts that share no name and cost no forward pass."""
    return Scores(
        scores=_union([part.scores for part in parts]),
        intervals=_union([part.intervals for part in parts]),
        n=_union([part.n for part in parts]),
        series=_union([part.series for part in parts]),
        skipped=_union([part.skipped for part in parts]),
    )


def as_control(scores: Scores, control: str = "chance") -> Scores:
    """Return the scores under their control's names, without series."""
    return Scores(
        scores=_renamed(scores.scores, control),
        intervals=_renamed(scores.intervals, control),
        n=_renamed(scores.n, control),
        skipped=_renamed(scores.skipped, control),
    )


def _renamed(named: dict[str, Value], control: str) -> dict[str, Value]:
    return {control_name(name, control): value for name, value in named.items()}


def _union(named: Sequence[dict[str, Value]]) -> dict[str, Value]:
    return {name: value for part in named for name, value in part.items()}


def ratio_interval(
    above: Float[Tensor, " unit"], below: Float[Tensor, " unit"], seed: int
) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of sum(above) / sum(below) over resampled units.

    Above N_BLOCKS units, as many blocks of consecutive ones are resampled: cheaper, and neighbours
    that resemble each other (tokens of one text) stay together. None where there is nothing to
    resample (fewer than two units) or where a resample has no finite ratio.
    """
    if len(above) < 2:
        return None
    both = torch.stack([above, below], dim=1)
    blocks = both.tensor_split(min(N_BLOCKS, len(both)))
    means = resampled_means(torch.stack([block.sum(0) for block in blocks]), seed)
    ratios = means[:, 0] / means[:, 1]
    if not bool(ratios.isfinite().all()):
        return None
    low, high = percentiles(ratios[:, None])
    return low.item(), high.item()
