"""A joint set: several latents switched off at once, at every position.

    effect_S = m(codes) - m(codes with the columns of S = 0)

The estimate of a set is the sum of its latents' estimates, so an estimator that is right about
single latents still fails here where they interact (redundancy: sum too small; synergy: too large).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradsae import checks
from gradsae.influence.ablation import first_read
from gradsae.influence.target import Target, evaluate_all
from gradsae.influence.truth import About, Asked, Measured, Truth
from gradsae.interfaces import Skipped
from gradsae.prompt import SeenPrompt


@final
@dataclass(frozen=True, kw_only=True)
class Joint(Truth):
    """Random sets of the active latents."""

    size: int = 8
    """Latents in a set."""
    n_sets: int = 64

    def __post_init__(self) -> None:
        checks.whole("size", self.size, 2)
        checks.whole("n_sets", self.n_sets, 3)

    @property
    def name(self) -> str:
        return f"joint_{self.size}"

    def ask(self, about: About, generator: torch.Generator) -> "Sets | Skipped":
        n = about.seen.n_active
        if n <= self.size:
            return Skipped(f"no more than {self.size} active latents to draw sets from")
        drawn = [torch.randperm(n, generator=generator)[: self.size] for _ in range(self.n_sets)]
        return Sets(seen=about.seen, members=torch.stack(drawn).to(about.seen.codes.device))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Sets(Asked):
    """Units that are sets of columns."""

    seen: SeenPrompt
    members: Int[Tensor, "sets size"]

    @property
    def n_units(self) -> int:
        return len(self.members)

    def of(self, scores: Float[Tensor, " active"]) -> Float[Tensor, " units"]:
        return scores[self.members.to(scores.device)].sum(1)

    def of_ablation(self, effect: Float[Tensor, " active"]) -> Float[Tensor, " units"] | None:
        return self.of(effect)

    @torch.no_grad()
    def measure(self, targets: Sequence[Target], *, batch_rows: int) -> Measured:
        seen, n_pos = self.seen, len(self.seen.codes)
        effect, suffix_runs = seen.codes.new_empty(len(targets), self.n_units), 0.0
        opens = seen.first_open(self.members.flatten()).view_as(self.members).amin(1)
        opens = opens.clamp_max(first_read(seen, targets))
        for part in opens.argsort(stable=True).split(batch_rows - 1):
            start = int(opens[part[0]])
            kept = torch.ones(len(part), 1, seen.n_active).to(seen.codes)
            kept[:, 0].scatter_(1, self.members[part], 0.0)
            edited = torch.cat([seen.clean[None], seen.activation(seen.codes * kept)])
            value = evaluate_all(seen, targets, edited, start=start)
            effect[:, part] = (value[:, :1] - value[:, 1:]).to(effect.dtype)
            suffix_runs += len(edited) * (1 - seen.suffix.begin(start) / n_pos)
        return Measured(effect=effect, suffix_runs=suffix_runs)
