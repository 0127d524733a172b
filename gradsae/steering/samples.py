"""Samples: text that the model writes with and without steering, for a person to read."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from gradsae.interfaces import ModelSource
from gradsae.sae.dictionary import Dictionary
from gradsae.steering.interventions import Chosen, Intervention, read


class Sample(NamedTuple):
    """One greedy continuation; the fields are the columns of the series `steering/samples`."""

    prompt: str
    selector: str
    latents: str
    mode: str
    dose: float
    before: str
    after: str


@torch.no_grad()
def continue_steered(
    source: ModelSource,
    sae: Dictionary,
    token_ids: Int[Tensor, " pos"],
    chosen: Chosen,
    intervention: Intervention,
    n_new: int,
) -> Int[Tensor, " new"]:
    """Return the greedy continuation by `n_new` tokens under steering.

    The text is read anew after each token, so that the new positions are steered like the others.
    Costs one full forward pass a token.
    """
    n_prompt = len(token_ids)
    for _ in range(n_new):
        text = read(source, sae, token_ids)
        last = text.seen.rerun.logits(text.steered(chosen, intervention)[None], [-1])
        token_ids = torch.cat([text.seen.token_ids, last[0, -1].argmax()[None]])
    return token_ids[n_prompt:]


def sample_texts(
    source: ModelSource,
    sae: Dictionary,
    token_ids: Int[Tensor, " pos"],
    chosen: Mapping[str, Chosen],
    interventions: Sequence[Intervention],
    n_new: int,
) -> list[Sample]:
    """Return one sample for each selector and intervention: n_new full forward passes each, and
    once as many for the text before."""
    lm = source.lm()
    before = lm.generate(token_ids[None], n_new)[0, len(token_ids) :]
    return [
        Sample(
            prompt=lm.text(token_ids),
            selector=selector,
            latents=", ".join(map(str, latents.latents.tolist())),
            mode=intervention.mode,
            dose=intervention.dose,
            before=lm.text(before, after=token_ids),
            after=lm.text(
                continue_steered(source, sae, token_ids, latents, intervention, n_new),
                after=token_ids,
            ),
        )
        for selector, latents in chosen.items()
        for intervention in interventions
    ]
