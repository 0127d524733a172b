"""Side effects: changes by steering other than that of the target, on prompts and other text."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from gradsae.errors import UserError
from gradsae.interfaces import ModelSource
from gradsae.prompts.seen import NoActiveLatentError
from gradsae.prompts.sets import Prompt
from gradsae.sae.dictionary import Dictionary
from gradsae.steering.interventions import Chosen, Intervention, Text, read, run_steered


def kl_rest(
    clean: Float[Tensor, " vocab"], edited: Float[Tensor, "batch vocab"], target: int
) -> Float[Tensor, " batch"]:
    """Return KL(clean || edited) of the next token given that it is not the target, in nats.

    The target is removed from both distributions and the rest renormalised: 0 means that steering
    moved probability to or from the target and left every other ratio alone. At least 0; lower is
    better.
    """
    is_other = torch.ones_like(clean, dtype=torch.bool)
    is_other[target] = False
    p, q = clean[is_other].log_softmax(-1), edited[:, is_other].log_softmax(-1)
    return F.kl_div(q, p.expand_as(q), log_target=True, reduction="none").sum(-1).clamp_min(0)


class Damage(NamedTuple):
    """Effects of a list of interventions on unrelated text; 0 where nothing was changed."""

    log_ppl_ratio: Float[Tensor, " doses"]
    """Mean rise of the loss per token, in nats: the log of the perplexity ratio."""
    flips: Float[Tensor, " doses"]
    """Share of positions whose most likely next token changed, in [0, 1]."""
    risen: Float[Tensor, " doses"] | None
    """Share of positions at which the target became more likely, in [0, 1]; half for those that
    did not move. None where no target was named."""
    forward_equivalents: float

    def then(self, further: "Damage") -> "Damage":
        """Return the damage of these interventions followed by further ones, on the same text."""
        risen = None
        if self.risen is not None and further.risen is not None:
            risen = torch.cat([self.risen, further.risen])
        return Damage(
            torch.cat([self.log_ppl_ratio, further.log_ppl_ratio]),
            torch.cat([self.flips, further.flips]),
            risen,
            self.forward_equivalents + further.forward_equivalents,
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class UnrelatedText:
    """Held-out text that has nothing to do with the prompts."""

    texts: Sequence[Text]

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("unrelated text must hold at least 1 text, got none")

    @property
    def read_cost(self) -> float:
        """Return the cost of reading the texts, in full forward passes."""
        return sum(text.read_cost for text in self.texts)

    def damage(
        self,
        chosen: Chosen,
        interventions: Sequence[Intervention],
        *,
        batch_rows: int,
        target: int | None = None,
    ) -> Damage:
        """Apply the interventions to the same latents here and compare the model's loss.

        `scale` acts where these latents fire on this text; `set` gives them their reference value
        from the prompt, at every kept position.
        """
        rise, cost, n_tokens = torch.zeros(len(interventions), dtype=torch.float64), 0.0, 0
        flips, risen = rise.clone(), rise.clone()
        for text in self.texts:
            n_tokens += len(text.seen.token_ids) - 1
            risen += 0.5 * len(text.seen.token_ids)
            for batch in run_steered(text, chosen, interventions, batch_rows=batch_rows):
                after = total_loss(batch.edited, text.seen.token_ids)
                before = total_loss(batch.clean[None], text.seen.token_ids)
                index = batch.indices.cpu()
                rise[index] += (after - before).cpu()
                flips[index] += (
                    (batch.edited.argmax(-1) != batch.clean.argmax(-1)).sum(1).double().cpu()
                )
                if target is not None:
                    gain = _log_prob(batch.edited, target) - _log_prob(batch.clean, target)
                    risen[index] += 0.5 * gain.sign().sum(1).double().cpu()
                cost += batch.forward_equivalents
        if not bool(rise.isfinite().all()):
            raise UserError("the loss of steered text is not a finite number: try smaller doses")
        n_positions = n_tokens + len(self.texts)
        shares = None if target is None else risen / n_positions
        return Damage(rise / n_tokens, flips / n_positions, shares, cost)


def _log_prob(logits: Float[Tensor, "*batch vocab"], token: int) -> Float[Tensor, "*batch"]:
    return logits[..., token] - logits.logsumexp(-1)


def total_loss(
    logits: Float[Tensor, "batch pos vocab"], token_ids: Int[Tensor, " pos"]
) -> Float[Tensor, " batch"]:
    """Return the summed negative log-likelihood of a text after its first token, in nats."""
    before = logits[:, :-1]  # logsumexp and gather: no second copy of the logits
    next_ids = token_ids[1:].expand(len(logits), -1)[..., None]
    return (before.logsumexp(-1) - before.gather(-1, next_ids)[..., 0]).double().sum(1)


def read_unrelated(
    source: ModelSource, sae: Dictionary, prompts: Sequence[Prompt], n: int, length: int, seed: int
) -> UnrelatedText | None:
    """Read the first `length` tokens of `n` held-out windows that no prompt was cut from.

    Windows on which no latent fires are left out; None if none is left.
    """
    windows = source.eval_windows(n + len(prompts), seed)
    free = [w for w in windows if not any(_begins(w, prompt.token_ids) for prompt in prompts)]
    texts = []
    for window in free[:n]:
        if len(window) < length:
            raise UserError(
                f"unrelated text of {length} tokens does not fit the source's windows of "
                f"{len(window)} tokens"
            )
        with suppress(NoActiveLatentError):
            texts.append(read(source, sae, window[:length]))
    return UnrelatedText(texts=texts) if texts else None


def _begins(window: Int[Tensor, " window"], start: Int[Tensor, " pos"]) -> bool:
    return torch.equal(window[: len(start)].cpu(), start.cpu())
