"""What remains under masks: the answer's score, teacher-forced, and the answer that is written.

A mask switches latents off at every position, those of newly written tokens included. The SAE's
error is held fixed: the edit is a difference, as in `gradsae.prompt`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gradsae.codes import Codes, SparseCodes
from gradsae.influence.target import Target, evaluate_all
from gradsae.interfaces import ModelSource
from gradsae.masking.sets import LatentSet
from gradsae.prompt import SeenPrompt
from gradsae.questions.question import Format, Question
from gradsae.sae import SAE

MORE_TOKENS = 2
"""Written beyond the length of the answer, for what ends it."""


class Joint(NamedTuple):
    value: Float[Tensor, "targets sets"]
    """Targets under each mask."""
    clean: Float[Tensor, " targets"]
    suffix_runs: float

    @property
    def drop(self) -> Float[Tensor, "targets sets"]:
        """What each target loses; positive where the masked latents support it."""
        return self.clean[:, None] - self.value


@torch.no_grad()
def score(
    seen: SeenPrompt,
    targets: Sequence[Target],
    kept: Float[Tensor, "sets active"],
    *,
    batch_rows: int,
) -> Joint:
    """Return each target with the codes of a question multiplied by each row of `kept`.

    The first row of every batch is unedited; a value is corrected by how far that row is from the
    first batch's, so that kernels which differ between batch sizes cancel.
    """
    value, runs, clean = seen.codes.new_empty(len(targets), len(kept)), 0.0, None
    for part in torch.arange(len(kept)).split(batch_rows - 1):
        edited = seen.activation(seen.codes * kept[part][:, None, :])
        found = evaluate_all(seen, targets, torch.cat([seen.clean[None], edited]))
        clean = found[:, 0] if clean is None else clean
        value[:, part] = (clean[:, None] + found[:, 1:] - found[:, :1]).to(value.dtype)
        runs += len(edited) + 1
    if clean is None:
        raise ValueError("score needs at least 1 mask, got none")
    return Joint(value, clean.to(value.dtype), runs)


@torch.no_grad()
def write_answers(
    source: ModelSource,
    sae: SAE,
    question: Question,
    off: Bool[Tensor, "sets d_sae"],
    form: Format,
    *,
    batch_rows: int,
) -> list[str]:
    """Return what the model writes greedily with the latents of each row off, cut at its end.

    Costs a full forward pass a row and token, until every row of a batch has ended.
    """
    written: list[str] = []
    for part in off.split(batch_rows):
        written += _write(source, sae, question, part, form)
    return written


def tokens_written(question: Question) -> int:
    return len(question.answer_ids) + MORE_TOKENS


def _write(
    source: ModelSource,
    sae: SAE,
    question: Question,
    off: Bool[Tensor, "rows d_sae"],
    form: Format,
) -> list[str]:
    lm, site = source.lm(), source.site()
    n_asked = len(question.asked_ids)
    tokens = question.asked_ids.to(lm.device).expand(len(off), -1)
    texts = [""] * len(off)
    for _ in range(tokens_written(question)):
        last = lm.logits(tokens, edit=(site, masking(source, sae, off, tokens)), positions=[-1])
        tokens = torch.cat([tokens, last[:, -1].argmax(-1, keepdim=True)], dim=1)
        texts = [lm.text(row[n_asked:]) for row in tokens]
        if all(_has_ended(text, form) for text in texts):
            break
    return [form.cut(text.lstrip()) for text in texts]


def _has_ended(text: str, form: Format) -> bool:
    text = text.lstrip()
    return any(end in text for end in form.ends)


def masking(
    source: ModelSource,
    sae: SAE,
    off: Bool[Tensor, "rows d_sae"],
    token_ids: Int[Tensor, "rows pos"],
) -> Callable[[Tensor], Tensor]:
    """Return the edit of a batch that switches latents off, other ones in each row."""

    def change(activation: Tensor) -> Tensor:
        rows, n_pos, width = activation.shape
        clean = activation.float()
        out = sae(clean.reshape(-1, width))
        dropped = source.dropped(token_ids, activation)
        row = torch.arange(rows, device=off.device).repeat_interleave(n_pos)
        gone = _only(out.codes, off, row, ~dropped.reshape(-1))
        without = (sae.decode_in(gone) - sae.b_dec) * out.scale
        return clean - without.view(rows, n_pos, width)

    return change


def _only(
    codes: Codes,
    off: Bool[Tensor, "rows d_sae"],
    row: Int[Tensor, " batch"],
    seen: Bool[Tensor, " batch"],
) -> Codes:
    """Return the codes of the latents that are off, on positions that the SAE sees."""
    if isinstance(codes, SparseCodes):
        gone = off[row[codes.rows], codes.latents] & seen[codes.rows]
        return codes.with_values(codes.values * gone)
    return codes.with_values(codes.values * (off[row] & seen[:, None]))


def off_latents(
    seen: SeenPrompt, sets: Sequence[LatentSet], d_sae: int
) -> Bool[Tensor, "sets d_sae"]:
    """Return one row per set: True for a latent that is off, also where it does not fire here."""
    off = torch.zeros(len(sets), d_sae, dtype=torch.bool, device=seen.codes.device)
    for row, one in zip(off, sets, strict=True):
        row[seen.latents[one.columns]] = True
        if one.kind == "keep":
            row.logical_not_()
    return off
