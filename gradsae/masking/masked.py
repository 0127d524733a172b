"""Scores of an answer under edits, teacher-forced, and the answers that the model writes then.

A mask switches latents off at every position, also at newly written tokens. The SAE's error is held
fixed: the edit is a difference, as in `gradsae.prompts.seen`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence.ablation import batches, first_read, runs_from
from gradsae.influence.target import Target, values_of
from gradsae.masking.writing import Begun, Later, Writer
from gradsae.prompts.seen import SeenPrompt


class Edits(NamedTuple):
    """Edits of one prompt, one row each. Activations are made batch by batch: they may be large."""

    opens: Int[Tensor, " rows"]
    """First position that each edit changes; the number of positions if it changes none."""
    activation: Callable[[Int[Tensor, " some"]], Float[Tensor, "some pos d_in"]]
    """The site's activation under some of the edits."""


class Joint(NamedTuple):
    value: Float[Tensor, "targets sets"]
    """Each target under each edit."""
    clean: Float[Tensor, " targets"]
    written: list[str]
    """Texts that the model wrote, one per edit; empty without a writer."""
    n_reruns: float
    """Reruns; a row counts as the share of positions that it ran."""
    written_cost: float = 0.0
    """Cost of the written tokens in full forward passes."""

    @property
    def drop(self) -> Float[Tensor, "targets sets"]:
        """Loss of each target under each edit; positive where the masked latents support it."""
        return self.clean[:, None] - self.value


def score(
    seen: SeenPrompt,
    targets: Sequence[Target],
    factors: Float[Tensor, "sets active"],
    *,
    batch_rows: int,
) -> Joint:
    """Return each target with the codes of a question times each row of `factors` (1 or 0)."""
    return run(seen, targets, masks(seen, factors), batch_rows=batch_rows)


def masks(seen: SeenPrompt, factors: Float[Tensor, "sets active"]) -> Edits:
    """Return the edits that multiply the codes by each row of `factors`: 0 is off, 1 stays."""
    columns = torch.arange(seen.n_active, device=factors.device)
    first = seen.first_open(columns)
    opens = torch.where(factors == 1, len(seen.codes), first).amin(1)
    return Edits(opens, lambda rows: seen.activation(seen.codes * factors[rows][:, None, :]))


def masks_later(seen: SeenPrompt, factors: Float[Tensor, "sets active"], d_sae: int) -> Later:
    """Return the same masks for written tokens."""
    is_off = torch.zeros(len(factors), d_sae, dtype=torch.bool, device=factors.device)
    is_off[:, seen.latents] = factors == 0
    return Later(is_off, torch.zeros_like(is_off, dtype=seen.codes.dtype))


@torch.no_grad()
def run(
    seen: SeenPrompt,
    targets: Sequence[Target],
    edits: Edits,
    *,
    batch_rows: int,
    writer: Writer | None = None,
    later: Later | None = None,
) -> Joint:
    """Return each target under each edit, and the text that the model writes if there is a writer.

    Each value is corrected by the difference between its batch's unedited row and that of the first
    batch, so differences between batches (kernels, start positions) cancel. `writer` needs `later`,
    and a prompt that holds the writer's question, perhaps followed by the scored answer. Raises
    ValueError without an edit.
    """
    n_pos, n_rows = len(seen.codes), len(edits.opens)
    if n_rows == 0:
        raise ValueError("run needs at least 1 edit, got none")
    positions = {p for target in targets for p in target.positions}
    positions = sorted(positions if writer is None else positions | {writer.position})
    value, clean = seen.codes.new_empty(len(targets), n_rows), None
    texts, n_reruns, cost = [""] * n_rows if writer else [], 0.0, 0.0
    opens = edits.opens.clamp_max(min(first_read(seen, targets), n_pos + positions[0]))
    for part, edited, start in batches(seen, edits.activation, opens, batch_rows):
        if writer is None or later is None:
            logits = seen.rerun.logits(edited, positions, start=start)
        else:
            logits, begun = _begin(seen, edited, positions, start, writer, later.of(part))
            answers = writer.write(begun)
            for row, text in zip(part.tolist(), answers.texts[1:], strict=True):
                texts[row] = text
            cost += answers.forward_equivalents
        rows = values_of(targets, logits, positions)
        clean = rows[:, 0] if clean is None else clean
        value[:, part] = (clean[:, None] + rows[:, 1:] - rows[:, :1]).to(value.dtype)
        n_reruns += runs_from(seen, len(edited), start)
    assert clean is not None
    return Joint(value, clean.to(value.dtype), texts, n_reruns, cost)


def _begin(
    seen: SeenPrompt,
    edited: Float[Tensor, "rows pos d_in"],
    positions: Sequence[int],
    start: int,
    writer: Writer,
    later: Later,
) -> tuple[Float[Tensor, "rows n_positions vocab"], Begun]:
    """Run a batch whose first row is unedited, and keep what the writer continues from."""
    logits, key_values = seen.rerun.logits_and_key_values(edited, positions, start=start)
    unchanged = torch.zeros_like(later.changed[:1])
    whole = Later(
        torch.cat([unchanged, later.changed]), torch.cat([unchanged.to(later.value), later.value])
    )
    question = edited[:, : len(writer.question.asked_ids)]
    return logits, Begun(logits[:, positions.index(writer.position)], question, key_values, whole)


def mask_columns(n_active: int, groups: Sequence[Sequence[int]], like: Tensor) -> Tensor:
    """Return one row per list of columns: 0 for those that are off, 1 for the rest."""
    factors = torch.ones(len(groups), n_active).to(like)
    for row, columns in zip(factors, groups, strict=True):
        row[list(columns)] = 0.0
    return factors


def unique_rows(
    factors: Float[Tensor, "sets active"],
) -> tuple[Float[Tensor, "unique active"], Int[Tensor, " sets"]]:
    """Return the different masks, and the index of each mask among them."""
    different, index = (factors != 0).unique(dim=0, return_inverse=True)
    return different.to(factors), index
