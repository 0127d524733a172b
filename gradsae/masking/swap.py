"""Local steering: does giving one question the latents of another bring the other's answer?

Both questions are about one context. On the prompt of the first, its own top K latents are switched
off at every position, and the top K of the second are set to their largest value on its own prompt,
at every position after the context. Reference: Shu et al. 2025, https://arxiv.org/abs/2505.08080,
section 4.3. Differs from the release: after the context instead of at the last position only, and
activations are put in, where the release puts in scores.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae.influence.target import log_prob
from gradsae.interfaces import ModelSource
from gradsae.questions.question import Question
from gradsae.sae import SAE
from gradsae.steering.interventions import Chosen, Text, read


class Swap(NamedTuple):
    """What one swap did; effects are steered minus clean, in nats."""

    gain: float
    """Of the other question's answer, teacher-forced; positive where it became more likely."""
    own: float
    """Of the question's own answer."""
    written: bool
    """Whether each token of the other's answer became the most likely one."""
    forward_equivalents: float


class Side(NamedTuple):
    """One question and the latents that a ranking names on it."""

    question: Question
    text: Text
    """With the question's own answer."""
    columns: Int[Tensor, " k"]


def swap(source: ModelSource, sae: SAE, into: Side, donor: Side) -> Swap:
    """Steer the question `into` to the answer of `donor`."""
    other = torch.cat([into.question.asked_ids, _ids(donor.question.answer_ids[:-1], into)])
    text = read(source, sae, other)
    gain, best = _effect(text, into, donor, donor.question.answer_ids, sae)
    own, _ = _effect(into.text, into, donor, into.question.answer_ids, sae)
    fraction = text.seen.suffix.fraction
    return Swap(gain, own, best, 1 - fraction + 4 * fraction)


@torch.no_grad()
def _effect(
    text: Text, into: Side, donor: Side, answer: tuple[int, ...], sae: SAE
) -> tuple[float, bool]:
    """Return the change of the answer's log-probability, and whether it became the greedy one."""
    steered = steered_activation(text, into, donor, sae)
    positions = list(range(-len(answer), 0))
    logits = text.seen.suffix.logits(torch.stack([text.seen.clean, steered]), positions)
    steps = [log_prob(logits[:, i].double(), token) for i, token in enumerate(answer)]
    clean, edited = torch.stack(steps).sum(0).tolist()
    return edited - clean, logits[1].argmax(-1).tolist() == list(answer)


def steered_activation(text: Text, into: Side, donor: Side, sae: SAE) -> Float[Tensor, "pos d_in"]:
    """Return the site's activation on `text` with `into`'s latents off and `donor`'s put in."""
    own = into.text.seen.latents[into.columns]
    given = donor.text.seen.latents[donor.columns]
    value = donor.text.seen.codes[:, donor.columns].amax(0)
    latents = torch.cat([own[~torch.isin(own, given)], given])
    n_off = len(latents) - len(given)
    reference = torch.cat([value.new_zeros(n_off), value])
    directions = sae.decoder().detach()[latents]
    chosen = Chosen(latents=latents, directions=directions, reference=reference)
    edited = text.codes_of(latents)
    edited[:, :n_off] = 0.0
    after = torch.arange(len(edited), device=edited.device) >= into.question.shared
    place = (after & text.kept)[:, None]
    edited[:, n_off:] = torch.where(place, value, edited[:, n_off:])
    lost = torch.isin(given, own) & ~place
    edited[:, n_off:] = edited[:, n_off:].masked_fill(lost, 0.0)
    return text.activation(chosen, edited)


def _ids(tokens: tuple[int, ...], into: Side) -> Int[Tensor, " n"]:
    return into.question.asked_ids.new_tensor(tokens)
