"""Output score: does raising a latent bring out the tokens that its direction reads as?

    score_c = P(steered) - P(clean),    P = (1 - rank / vocabulary) p  of the best lens token

The lens tokens of a latent are the `n_tokens` largest logits of its direction under final norm and
unembedding alone; the best is the one with the largest probability. The target plays no part: the
score is about the latent, and is here for comparison.

Reference: Arad, Mueller and Belinkov 2025, https://arxiv.org/abs/2505.20063. Differs from the
paper: steering happens on the studied prompt (there: a neutral one, once for all prompts), by
`dose` times the latent's largest value on that prompt (there: in the training data), and P(clean)
is subtracted (as printed; the released code drops it).
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.estimator import Estimator
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class OutputScore(Estimator):
    """In [-1, 1]; not in units of the target."""

    dose: float = 10.0
    n_tokens: int = 20
    batch_rows: int = 32

    def __post_init__(self) -> None:
        checks.number("dose", self.dose, above=0)
        checks.whole("n_tokens", self.n_tokens, 1)
        checks.whole("batch_rows", self.batch_rows, 1)

    name = "output_score"
    in_units = False

    @property
    def about(self) -> About:
        return About(
            label="output score",
            family="activation",
            member=1,
            paper="https://arxiv.org/abs/2505.20063",
        )

    @torch.no_grad()
    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        clean = seen.rerun.logits(seen.clean[None], [-1])[0]
        last = len(seen.codes) - 1
        scores = torch.zeros_like(seen.codes[0])
        for part in torch.arange(seen.n_active, device=scores.device).split(self.batch_rows):
            directions = seen.directions[part]
            tokens = seen.rerun.logit_lens(directions).topk(self.n_tokens).indices
            raised = self.dose * seen.codes[:, part].amax(0) * seen.scale[-1]
            steered = seen.clean.repeat(len(part), 1, 1)
            steered[:, -1] += raised[:, None] * directions
            after = seen.rerun.logits(steered, [-1], start=last)[:, 0]
            scores[part] = _brought_out(after, tokens) - _brought_out(clean, tokens)
        return scores

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        """Return the cost of a rerun of the last position for each latent.

        The lens is a head without blocks and is not counted.
        """
        n_pos = len(seen.codes)
        share = 1 - seen.rerun.rerun_start(n_pos - 1) / n_pos
        return 1 + seen.n_active * share * seen.rerun.fraction


def _brought_out(logits: Float[Tensor, "rows vocab"], tokens: Tensor) -> Float[Tensor, " batch"]:
    """Return (1 - rank / vocabulary) p of the most probable lens token.

    One row of logits serves all latents.
    """
    p = logits.softmax(-1).expand(len(tokens), -1)
    best = p.gather(1, tokens).amax(1, keepdim=True)
    rank = (p > best).sum(1)
    return ((1 - rank / p.shape[1])[:, None] * best)[:, 0]
