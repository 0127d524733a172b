"""Local steering: does giving one question the latents of another bring the other's answer?

Both questions are about one context. On the prompt of the first, its own top K latents are switched
off at every position, and the top K of the second are set to their largest value on its own prompt,
at every position after the context, those of written tokens included. Reference: Shu et al. 2025,
https://arxiv.org/abs/2505.08080, section 4.3. Differs from the release: after the context instead
of at the last position only, and activations are put in, where the release puts in scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence.target import Answer, Target
from gradsae.interfaces import ModelSource
from gradsae.masking.masked import Edits, Joint, run
from gradsae.masking.writing import Later, Writer
from gradsae.prompts.questions.question import Question
from gradsae.sae.dictionary import Dictionary
from gradsae.steering.interventions import Chosen, Text, read


class Swap(NamedTuple):
    """Effects of one swap: steered minus clean, in nats."""

    gain: float
    """Change of the other question's answer, teacher-forced; positive = it became more likely."""
    own_change: float
    """Change of the question's own answer."""
    greedy: bool
    """True if every token of the other's answer, teacher-forced, became the most likely one."""
    text: str | None
    """The answer that the model wrote; None without a writer."""
    forward_equivalents: float


class Side(NamedTuple):
    """One question and the latents that a ranking names on it."""

    question: Question
    text: Text
    """The question with its own answer."""
    columns: Int[Tensor, " k"]


@final
@dataclass(frozen=True, kw_only=True)
class Greedy(Target):
    """1 where every token of an answer, teacher-forced, is the most likely one, else 0."""

    tokens: tuple[int, ...]

    @property
    def token(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.tokens[0]

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(range(-len(self.tokens), 0))

    def value(self, logits: Float[Tensor, "batch n_positions vocab"]) -> Float[Tensor, " batch"]:
        best = logits.argmax(-1)
        return (best == best.new_tensor(self.tokens)).all(1).to(logits.dtype)


def swap(
    source: ModelSource,
    sae: Dictionary,
    sides: Sequence[tuple[Side, Side]],
    *,
    batch_rows: int,
    writer: Writer | None = None,
) -> list[Swap]:
    """Steer a question to the answer of another, once for each pair (into, donor) of sides.

    All pairs are about the same two questions and differ in the latents. `writer` is that of the
    question that is steered.
    """
    into, donor = sides[0]
    own_answer = Answer(tokens=into.question.answer_ids)
    donor_answer = donor.question.answer_ids
    other_targets: list[Target] = [Answer(tokens=donor_answer), Greedy(tokens=donor_answer)]
    text, cost = into.text, 0.0
    if into.question.answer_ids[:-1] == donor_answer[:-1]:  # the teacher-forced text is the same
        own_joint = other_joint = _run(
            text, [own_answer, *other_targets], sides, sae, batch_rows, writer
        )
        other_joint = other_joint._replace(value=other_joint.value[1:], clean=other_joint.clean[1:])
    else:
        question_ids = into.question.asked_ids
        text = read(
            source, sae, torch.cat([question_ids, question_ids.new_tensor(donor_answer[:-1])])
        )
        own_joint = _run(into.text, [own_answer], sides, sae, batch_rows, writer)
        other_joint = _run(text, other_targets, sides, sae, batch_rows, None)
        cost = text.read_cost + other_joint.n_reruns * text.seen.rerun.fraction
    cost += own_joint.n_reruns * into.text.seen.rerun.fraction + own_joint.written_cost
    gains, greedy = (
        (other_joint.value - other_joint.clean[:, None])[0].tolist(),
        other_joint.value[1].tolist(),
    )
    own_changes = (own_joint.value - own_joint.clean[:, None])[0].tolist()
    texts = own_joint.written or [None] * len(sides)
    rows = zip(gains, own_changes, greedy, texts, strict=True)
    return [Swap(g, o, best > 0.5, text, cost / len(sides)) for g, o, best, text in rows]


@torch.no_grad()
def _run(
    text: Text,
    targets: Sequence[Target],
    sides: Sequence[tuple[Side, Side]],
    sae: Dictionary,
    batch_rows: int,
    writer: Writer | None,
) -> Joint:
    rows = torch.stack([steered_activation(text, into, donor, sae) for into, donor in sides])
    is_changed = (rows != text.seen.clean).any(-1)
    opens = torch.where(is_changed.any(1), is_changed.int().argmax(1), rows.shape[1])
    later = None if writer is None else _later(sides, sae)
    edits = Edits(opens, lambda part: rows[part])
    return run(text.seen, targets, edits, batch_rows=batch_rows, writer=writer, later=later)


def _later(sides: Sequence[tuple[Side, Side]], sae: Dictionary) -> Later:
    """Return the swaps for written tokens, which come after the context."""
    like = sides[0][0].text.seen.codes
    value = like.new_zeros(len(sides), sae.d_sae)
    changed = torch.zeros_like(value, dtype=torch.bool)
    for row, (into, donor) in enumerate(sides):
        donor_latents = donor.text.seen.latents[donor.columns]
        changed[row, into.text.seen.latents[into.columns]] = True
        changed[row, donor_latents] = True
        value[row, donor_latents] = donor.text.seen.codes[:, donor.columns].amax(0)
    return Later(changed, value)


def steered_activation(
    text: Text, into: Side, donor: Side, sae: Dictionary
) -> Float[Tensor, "pos d_in"]:
    """Return the site's activation on `text` with `into`'s latents off and `donor`'s put in."""
    own_latents = into.text.seen.latents[into.columns]
    donor_latents = donor.text.seen.latents[donor.columns]
    value = donor.text.seen.codes[:, donor.columns].amax(0)
    latents = torch.cat([own_latents[~torch.isin(own_latents, donor_latents)], donor_latents])
    n_off = len(latents) - len(donor_latents)
    reference = torch.cat([value.new_zeros(n_off), value])
    directions = sae.decoder().detach()[latents]
    chosen = Chosen(latents=latents, directions=directions, reference=reference)
    edited = text.codes_of(latents)
    edited[:, :n_off] = 0.0
    after = torch.arange(len(edited), device=edited.device) >= into.question.shared
    place = (after & text.is_kept)[:, None]
    edited[:, n_off:] = torch.where(place, value, edited[:, n_off:])
    lost = torch.isin(donor_latents, own_latents) & ~place
    edited[:, n_off:] = edited[:, n_off:].masked_fill(lost, 0.0)
    return text.activation(chosen, edited)
