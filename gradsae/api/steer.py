"""Steering on one prompt: what changing some latents does to the answer, and to all else."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.api.prompted import PromptSetup, set_up
from gradsae.api.table import Table
from gradsae.errors import UserError
from gradsae.steering.interventions import (
    MODES,
    Chosen,
    Intervention,
    Mode,
    Text,
    read,
    run_steered,
)
from gradsae.steering.samples import continue_steered
from gradsae.steering.side_effects import kl_rest


def steer(
    model: Any,
    sae: Any,
    prompt: str,
    latents: int | Sequence[int],
    dose: int | float | Sequence[int | float] = 0.0,
    *,
    mode: Mode = "scale",
    target: str | int | None = None,
    site: str | None = None,
    reference: int | float | Sequence[int | float] | None = None,
    n_tokens: int = 20,
    batch_rows: int = 8,
) -> Table:
    """Change some latents together, at every position, and report what that does.

    Args:
        model: What `load_model` takes or returns.
        sae: What `load_sae` takes or returns.
        prompt: A text.
        latents: Number of a latent, or several that are changed together.
        dose: How strongly, or several strengths to compare.
        mode: "scale" multiplies the latents' own values by the dose (0 switches them off, 1
            changes nothing); "set" gives them dose x reference at every position, "add" adds that
            to their own values.
        target: The next token, as text or number; by default the model's most likely one.
        site: Where the SAE reads, for example "resid_post.15"; by default as the SAE says.
        reference: Value of each latent that dose 1 of "set" and "add" means, in the SAE's units;
            by default its largest on the prompt.
        n_tokens: Length of the greedy text that is written; each token is one forward pass.
        batch_rows: Edited prompts in one forward pass; less takes less memory.

    Returns:
        A row for the unedited model (`edit` is "none") and one per dose. `effect`: change of the
        target's log-probability (nats; positive = more likely), `logit_change` of its logit;
        `probability` of the target; `kl_rest`: KL of the next-token distribution without the
        target (nats; 0 leaves every other ratio alone); `text`: what the model writes.

    Raises:
        UserError: A latent does not exist, or has no reference value; a dose does not fit.

    Example:
        >>> gradsae.steer(model, sae, "The capital of France is", [1204, 77], dose=[0, 2, 4])
    """
    checks.whole("n_tokens", n_tokens, 0)
    edits = _edits(mode, [dose] if isinstance(dose, int | float) else dose)
    setup = set_up(model, sae, prompt, site, target)
    text = read(setup.source, setup.placed.sae, setup.prompt.token_ids)
    chosen = _chosen(setup, text, latents, reference, needed=mode != "scale")
    return _table(setup, text, chosen, edits, n_tokens, batch_rows)


def _edits(mode: Mode, doses: Sequence[int | float]) -> list[Intervention]:
    checks.one_of("mode", mode, MODES)
    try:
        return [Intervention(mode=mode, dose=float(dose)) for dose in doses]
    except ValueError as error:
        raise UserError(str(error)) from error


def _chosen(
    setup: PromptSetup,
    text: Text,
    given_latents: int | Sequence[int],
    reference: int | float | Sequence[int | float] | None,
    *,
    needed: bool,
) -> Chosen:
    """Return the latents with directions and reference values; UserError where they do not fit."""
    if setup.prompt.rest:
        raise UserError("the target of steering must be one token; this target has several")
    several = [given_latents] if isinstance(given_latents, int) else given_latents
    numbers = [int(latent) for latent in several]
    d_sae, device = setup.placed.d_sae, text.seen.codes.device
    wrong = [latent for latent in numbers if not 0 <= latent < d_sae]
    if wrong or not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"latents must be numbers from 0 to {d_sae - 1}, each once; got {numbers}")
    latents = torch.tensor(numbers, device=device)
    largest = text.codes_of(latents).amax(0)
    if reference is not None:
        given = [reference] if isinstance(reference, int | float) else list(reference)
        if len(given) not in (1, len(numbers)):
            raise UserError(
                f"reference must be one value or one for each of {len(numbers)} latents, got "
                f"{len(given)}"
            )
        largest = largest.new_tensor(given).expand(len(numbers))
    elif needed and bool((largest <= 0).any()):
        raise UserError(
            f"latent {numbers[int(largest.argmin())]} does not fire on this prompt, so it has no "
            "value that a dose could be a multiple of: give reference=, in the SAE's units"
        )
    directions = setup.placed.sae.decoder().detach()[latents]
    return Chosen(latents=latents, directions=directions, reference=largest)


def _table(
    setup: PromptSetup,
    text: Text,
    chosen: Chosen,
    edits: Sequence[Intervention],
    n_tokens: int,
    batch_rows: int,
) -> Table:
    lm, target = setup.lm, setup.prompt.target
    target_text = lm.text([target], after=setup.prompt.token_ids)
    effect, logit, spread = _measured(text, chosen, edits, target, batch_rows)
    probability = [setup.target_prob, *(setup.target_prob * effect.exp()).tolist()]
    columns: dict[str, list[Any]] = {
        "edit": ["none", *(f"{edit.mode} {edit.dose:g}" for edit in edits)],
        "effect": [0.0, *effect.tolist()],
        "logit_change": [0.0, *logit.tolist()],
        "probability": probability,
        "kl_rest": [0.0, *spread.tolist()],
    }
    if n_tokens:
        columns["text"] = _texts(setup, chosen, edits, n_tokens)
    names = ", ".join(map(str, chosen.latents.tolist()))
    return Table(
        title=f"Steering latents {names} at {setup.source.place} of {lm.name}",
        columns=columns,
        headers={
            "effect": "effect on log p (nats)",
            "logit_change": "on the logit",
            "kl_rest": "KL of the rest (nats)",
            "text": "what the model writes",
        },
        bars=["effect"],
        notes=[f"Target: {target_text!r}.", *setup.notes],
    )


def _measured(
    text: Text, chosen: Chosen, edits: Sequence[Intervention], target: int, batch_rows: int
) -> tuple[Float[Tensor, " doses"], Float[Tensor, " doses"], Float[Tensor, " doses"]]:
    """Return the change of the target's log-probability and logit, and the KL of the rest.

    0 where an edit changes nothing. The first two as `gradsae.steering.doses` has them.
    """
    effect = torch.zeros(len(edits), dtype=torch.float64)
    logit, spread = effect.clone(), effect.clone()
    for run in run_steered(text, chosen, edits, positions=[-1], batch_rows=batch_rows):
        clean, edited = run.clean[-1].double(), run.edited[:, -1].double()
        index = run.indices.cpu()
        effect[index] = (edited.log_softmax(-1) - clean.log_softmax(-1))[:, target].cpu()
        logit[index] = (edited - clean)[:, target].cpu()
        spread[index] = kl_rest(clean, edited, target).cpu()
    if not bool(effect.isfinite().all() and spread.isfinite().all()):
        raise UserError("an effect is not a finite number: try smaller doses")
    return effect, logit, spread


def _texts(
    setup: PromptSetup, chosen: Chosen, edits: Sequence[Intervention], n_new: int
) -> list[str]:
    """Return what the model writes after the prompt: unedited, then under each edit."""
    lm, sae, ids = setup.lm, setup.placed.sae, setup.prompt.token_ids
    if len(ids) + n_new > lm.max_context:
        raise UserError(
            f"n_tokens={n_new} after a prompt of {len(ids)} tokens exceed the context of "
            f"{lm.name} ({lm.max_context})"
        )
    written: list[Int[Tensor, " new"]] = [lm.generate(ids[None], n_new)[0, len(ids) :]]
    for edit in edits:
        written.append(continue_steered(setup.source, sae, ids, chosen, edit, n_new))
    return [lm.text(tokens, after=ids) for tokens in written]
