"""The Shapley share: a latent's mean effect over all orders in which the latents are removed.

    share_c = mean over orders of m(before c is removed) - m(after)

Shares add up to m(all codes) - m(no codes), interactions and all. Sampled: orders are drawn in
pairs, each with its reverse (antithetic: for a pairwise interaction the two halves cancel exactly),
and the standard error comes from the spread between pairs. The limit of joint-path integrated
gradients (Aumann-Shapley) is the same where interactions are pairwise.

Reference: Castro et al. 2009, Polynomial calculation of the Shapley value based on sampling;
antithetic orders: Mitchell et al. 2022, https://arxiv.org/abs/2104.12199.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.ablation import first_read, runs_from
from gradsae.influence.target import Target, evaluate_all
from gradsae.influence.truth import Measured, PreparedTruth, PromptContext, Truth
from gradsae.prompts.seen import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class Shapley(Truth):
    """Costs 2 x n_pairs reruns for each active latent."""

    n_pairs: int = 4

    def __post_init__(self) -> None:
        checks.whole("n_pairs", self.n_pairs, 2)

    @property
    def name(self) -> str:
        return f"shapley_{self.n_pairs}"

    @property
    def about(self) -> About:
        label, paper = f"Shapley, {self.n_pairs} pairs", "https://arxiv.org/abs/2104.12199"
        return About(label=label, family="shapley", paper=paper)

    def prepare(self, context: PromptContext, generator: torch.Generator) -> "Walks":
        return Walks(seen=context.seen, orders=context.orders(self.n_pairs, generator))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Walks(PreparedTruth):
    """All active latents, removed one after another in each order and in its reverse."""

    seen: SeenPrompt
    orders: Int[Tensor, "pairs active"]

    def to_units(self, scores: Float[Tensor, " active"]) -> Float[Tensor, " units"]:
        return scores

    def predict_from_ablation(
        self, effect: Float[Tensor, " active"]
    ) -> Float[Tensor, " units"] | None:
        return effect

    @torch.no_grad()
    def measure(self, targets: Sequence[Target], *, batch_rows: int) -> Measured:
        pairs, n_reruns = [], 0.0
        for order in self.orders:
            forth, back = (
                self._walk(targets, walked, batch_rows) for walked in (order, order.flip(0))
            )
            pairs.append((forth[0] + back[0]) / 2)
            n_reruns += forth[1] + back[1]
        shares = torch.stack(pairs)
        error = shares.std(0) / len(shares) ** 0.5
        return Measured(effect=shares.mean(0), n_reruns=n_reruns, error=error)

    def _walk(
        self, targets: Sequence[Target], order: Int[Tensor, " active"], batch_rows: int
    ) -> tuple[Float[Tensor, "n_targets active"], float]:
        """Return what removing each latent in this order takes from each target, and the reruns."""
        seen = self.seen
        start = min(int(seen.first_open(order).min()), first_read(seen, targets))
        effect, n_reruns = seen.codes.new_empty(len(targets), len(order)), 0.0
        for part, edited in self._states(order, batch_rows):
            value = evaluate_all(seen, targets, edited, start=start)
            effect[:, part] = (value[:, :-1] - value[:, 1:]).to(effect.dtype)
            n_reruns += runs_from(seen, len(edited), start)
        return effect, n_reruns

    def _states(
        self, order: Int[Tensor, " active"], batch_rows: int
    ) -> Iterator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch_plus_1 pos d_in"]]]:
        """Yield activations before and after each removal. A batch starts where the last ended."""
        factors = torch.ones(self.seen.n_active).to(self.seen.codes)
        for part in order.split(batch_rows - 1):
            rows = factors.repeat(len(part) + 1, 1)
            for i, column in enumerate(part.tolist()):
                rows[i + 1 :, column] = 0.0
            factors = rows[-1]
            yield part, self.seen.activation(self.seen.codes * rows[:, None])
