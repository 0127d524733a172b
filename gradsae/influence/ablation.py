"""The default truth: what the target loses if one active latent is off at every position.

    effect_c = m(codes) - m(codes with column c = 0)

Positive means that the latent supports the target. The SAE's error is held fixed
(`SeenPrompt.without`), and only the model after the site is run again. The other truths are in
`gradsae.influence.truths`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence.target import Target, evaluate, evaluate_all
from gradsae.prompts.seen import SeenPrompt

N_JITTERED = 8
N_NO_OPS = 8


@final
@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Effects of some latents of one prompt."""

    columns: Int[Tensor, " ablated"]
    """Column of `SeenPrompt.codes` of each effect."""
    effect: Float[Tensor, " ablated"]
    """In units of the target; positive = the latent supports it."""
    n_reruns: float
    """Reruns that it took: a row counts as the share of positions that it ran."""


def forward_equivalents(seen: SeenPrompt, columns: Int[Tensor, " ablated"]) -> float:
    """Return the cost of ablating these latents, one by one, in full forward passes.

    One clean pass; then for each latent the share of blocks after the site, times the share of
    positions from its first open one on. The unedited row of each batch is not counted.
    """
    starts = [seen.rerun.rerun_start(start) for start in seen.first_open(columns).tolist()]
    n_pos = len(seen.codes)
    return 1 + seen.rerun.fraction * sum(1 - start / n_pos for start in starts)


def ablate(
    seen: SeenPrompt, target: Target, columns: Int[Tensor, " ablated"], *, batch_rows: int
) -> Ablation:
    """Switch each latent off in turn, in batches of `batch_rows` rows."""
    return ablate_all(seen, [target], columns, batch_rows=batch_rows)[0]


@torch.no_grad()
def ablate_all(
    seen: SeenPrompt,
    targets: Sequence[Target],
    columns: Int[Tensor, " ablated"],
    *,
    batch_rows: int,
) -> list[Ablation]:
    """Ablate for several targets at once. The reruns are shared, and each result states them."""
    effect, n_reruns = effects_of(
        seen,
        targets,
        lambda part: seen.without(columns[part]),
        begins=seen.first_open(columns),
        batch_rows=batch_rows,
    )
    return [Ablation(columns=columns, effect=row, n_reruns=n_reruns) for row in effect]


@torch.no_grad()
def ablate_sparing(
    seen: SeenPrompt, target: Target, columns: Int[Tensor, " ablated"], clean: Float[Tensor, "1"]
) -> Float[Tensor, " ablated"]:
    """Return the effect of each latent without running a position that its edit leaves clean.

    Latents that open at the same position are a batch. There is no unedited row in it (`clean` is
    `clean_value`), so differences between kernels do not cancel: in half precision `ablate` rounds
    less.
    """
    begins = seen.first_open(columns).clamp_max(first_read(seen, [target]))
    effect = seen.codes.new_empty(len(columns))
    for start in begins.unique().tolist():
        part = begins == start
        value = evaluate(seen, target, seen.without(columns[part]), start=start)
        effect[part] = (clean - value).to(effect.dtype)
    return effect


@torch.no_grad()
def clean_value(seen: SeenPrompt, target: Target) -> Float[Tensor, "1"]:
    """Return the target without an edit, from a rerun of only the positions that are read."""
    return evaluate(seen, target, seen.clean[None], start=first_read(seen, [target]))


def effects_of(
    seen: SeenPrompt,
    targets: Sequence[Target],
    edited: Callable[[Int[Tensor, " batch"]], Float[Tensor, "batch pos d_in"]],
    *,
    begins: Int[Tensor, " edits"],
    batch_rows: int,
) -> tuple[Float[Tensor, "n_targets edits"], float]:
    """Return what each edit takes from each target, and the number of reruns.

    `edited` returns the activations of some edits; `begins` is the first position that each edit
    changes. An effect is a difference between two rows of one batch, the first of which is
    unedited. So differences between batches (kernels, start positions) cancel.
    """
    effect, n_reruns = seen.codes.new_empty(len(targets), len(begins)), 0.0
    begins = begins.clamp_max(first_read(seen, targets))
    for part, rows, start in batches(seen, edited, begins, batch_rows):
        value = evaluate_all(seen, targets, rows, start=start)
        effect[:, part] = (value[:, :1] - value[:, 1:]).to(effect.dtype)
        n_reruns += runs_from(seen, len(rows), start)
    return effect, n_reruns


def batches(
    seen: SeenPrompt,
    edited: Callable[[Int[Tensor, " batch"]], Float[Tensor, "batch pos d_in"]],
    begins: Int[Tensor, " edits"],
    batch_rows: int,
) -> Iterator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch_plus_1 pos d_in"], int]]:
    """Yield the edits of each batch, its activations with an unedited first row, and its start.

    Edits are sorted by the first position that they change, and a batch starts at the earliest of
    its edits.
    """
    for part in begins.argsort(stable=True).split(batch_rows - 1):
        yield part, torch.cat([seen.clean[None], edited(part)]), int(begins[part[0]])


def runs_from(seen: SeenPrompt, n_rows: int, start: int) -> float:
    """Return the cost of `n_rows` rows from position `start` on, in whole reruns."""
    return n_rows * (1 - seen.rerun.rerun_start(start) / len(seen.codes))


def first_read(seen: SeenPrompt, targets: Sequence[Target]) -> int:
    """Return the first position whose logits are read. No rerun may start after it."""
    return len(seen.codes) + min(p for target in targets for p in target.positions)


@torch.no_grad()
def rounding_noise(seen: SeenPrompt, target: Target, generator: torch.Generator) -> float:
    """Return how far rounding of the activation moves the target (root mean square).

    In N_JITTERED rows, every entry of the clean activation changes at random by up to one unit in
    the last place of the model's dtype. Unedited rows would show nothing, because kernels repeat
    themselves bit by bit; yet each ablation rounds anew in every later block.
    """
    clean, eps = seen.clean, torch.finfo(seen.rerun.clean.dtype).eps
    jitter = 2 * torch.rand(N_JITTERED, *clean.shape, generator=generator).to(clean) - 1
    value = evaluate(seen, target, torch.cat([clean[None], clean * (1 + eps * jitter)]))
    return (value[1:] - value[0]).square().mean().sqrt().item()


@torch.no_grad()
def no_op_noise(seen: SeenPrompt, target: Target, generator: torch.Generator) -> float:
    """Return how far an edit that is undone at once moves the target (root mean square).

    In N_NO_OPS rows, what a random active latent writes is subtracted from the activation and added
    again, in the model's dtype. Without rounding nothing would change: the result is the rounding
    of one edit and of all later blocks. 0 where the dtype holds the edit exactly.
    """
    dtype = seen.rerun.clean.dtype
    columns = torch.randint(seen.n_active, (N_NO_OPS,), generator=generator)
    columns = columns.to(seen.codes.device)
    written = (seen.codes * seen.scale).mT[columns][:, :, None] * seen.directions[columns][:, None]
    put_back = seen.without(columns).to(dtype) + written.to(dtype)
    value = evaluate(seen, target, torch.cat([seen.clean[None], put_back.to(seen.clean.dtype)]))
    return (value[1:] - value[0]).square().mean().sqrt().item()
