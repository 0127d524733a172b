"""Dose-response: the effect of each strength of an intervention on the next token.

    effect(d) = log p(target | edited) - log p(target | clean)      nats; positive = more likely

At dose 1 of mode `scale` nothing is edited, and the slope there is the gradient: the sum over the
chosen latents of signed gradient x activation. Both are computed, which checks every edit for free.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae.errors import UserError
from gradsae.steering.interventions import Chosen, Intervention, Mode, Text, run_steered
from gradsae.steering.side_effects import kl_rest

STEP = 0.02
"""Half width in doses of the central difference: error O(STEP^2), rounding about 1e-6 / STEP."""


class Response(NamedTuple):
    """Effects of a list of interventions on one prompt; 0 where nothing was changed."""

    effect: Float[Tensor, " doses"]
    kl_rest: Float[Tensor, " doses"]
    forward_equivalents: float


def respond(
    text: Text,
    target: int,
    chosen: Chosen,
    interventions: Sequence[Intervention],
    *,
    batch_rows: int,
) -> Response:
    """Return the effect of each intervention on the token after the prompt. UserError if one is not
    finite."""
    effect = torch.zeros(len(interventions), dtype=torch.float64)
    kl, cost = effect.clone(), 0.0
    for batch in run_steered(text, chosen, interventions, positions=[-1], batch_rows=batch_rows):
        clean, edited = batch.clean[-1].double(), batch.edited[:, -1].double()
        index = batch.indices.cpu()
        gain = edited.log_softmax(-1)[:, target] - clean.log_softmax(-1)[target]
        effect[index] = gain.cpu()
        kl[index] = kl_rest(clean, edited, target).cpu()
        cost += batch.forward_equivalents
    if not bool(effect.isfinite().all() and kl.isfinite().all()):
        raise UserError("an effect of steering is not a finite number: try smaller doses")
    return Response(effect, kl, cost)


class Slope(NamedTuple):
    """Change of the target's log-probability per unit of dose, at the dose that edits nothing.

    Gradient and finite difference must agree, which checks every edit.
    """

    gradient: float
    difference: float
    """The same by a central finite difference of the dose-response."""
    forward_equivalents: float


NO_EDIT: dict[Mode, float] = {"scale": 1.0, "add": 0.0}
"""The dose that edits nothing, of the modes that have one."""


def slope(text: Text, target: int, chosen: Chosen, *, mode: Mode = "scale") -> Slope:
    """Return the slope at the dose that edits nothing, in nats, by gradient and by difference."""
    neutral = NO_EDIT[mode]
    dose = torch.full((), neutral, device=text.seen.codes.device, requires_grad=True)
    with torch.enable_grad():
        codes = text.codes_of(chosen.latents)
        edited = dose * codes
        if mode == "add":
            edited = codes + dose * chosen.reference * text.is_kept[:, None]
        activation = text.activation(chosen, edited)
        last = text.seen.rerun.logits(activation[None], [-1])[0, -1]
        (gradient,) = torch.autograd.grad(last.double().log_softmax(-1)[target], dose)
    around = [Intervention(mode=mode, dose=d) for d in (neutral - STEP, neutral + STEP)]
    below_above = respond(text, target, chosen, around, batch_rows=3)
    difference = below_above.effect.diff().item() / (2 * STEP)
    cost = 3 * text.seen.rerun.fraction + below_above.forward_equivalents
    return Slope(gradient.item(), difference, cost)
