"""Curvature correction: the second-order Taylor estimate of ablating a latent everywhere.

    score_c = g.d_c - d_c H d_c / 2,    g, H: gradient and Hessian at the clean codes, d_c: column c

A product H d_c for every latent would cost more than ablating it. Instead the products H z go with
z = sum of e_c d_c, random signs e: e_c d_c H z is d_c H d_c plus what the other latents add with
random sign, and that averages out over probes. H z is a central difference of gradients, so nothing
is differentiated twice (attention kernels cannot be).

    reliability_c = |d_c H d_c| / (2 |g.d_c|)       above about 1/2 the gradient is unreliable

References: Hessian-vector correction and ratio: When Attribution Patching Lies,
https://arxiv.org/abs/2606.09899 (there: one shared direction, the joint removal, or one product for
each latent); random signs: Hutchinson 1990.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from gradsae import checks
from gradsae.about import About
from gradsae.influence.estimator import Estimator
from gradsae.influence.estimators.grad_times_act import GradTimesAct
from gradsae.influence.gradient import gradient
from gradsae.influence.target import Target
from gradsae.prompts.seen import SeenPrompt

STEP = 0.125
"""Share of its value that a probe moves each latent by; the error is of the order of its square."""
UNRELIABLE = 0.5
"""Reliability ratio above which the gradient is not to be relied on."""


@final
@dataclass(frozen=True, kw_only=True)
class Curvature(Estimator):
    """Signed, in units of the target."""

    n_probes: int = 1

    def __post_init__(self) -> None:
        checks.whole("n_probes", self.n_probes, 1)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"curvature_{self.n_probes}"

    @property
    def about(self) -> About:
        probes = "1 probe" if self.n_probes == 1 else f"{self.n_probes} probes"
        paper = "https://arxiv.org/abs/2606.09899"
        return About(label=f"curvature, {probes}", family="path", member=2, paper=paper)

    def scores(
        self, seen: SeenPrompt, target: Target, generator: torch.Generator
    ) -> Float[Tensor, " active"]:
        first = GradTimesAct().scores(seen, target, generator)
        return first - self_curvature(seen, target, self.n_probes, generator) / 2

    def unreliable_share(
        self, scores: Float[Tensor, " active"], first_order: Float[Tensor, " active"]
    ) -> float:
        """Return the share of latents whose reliability ratio is above UNRELIABLE."""
        doubtful = reliability(first_order, 2 * (first_order - scores)) > UNRELIABLE
        return doubtful.double().mean().item()

    def forward_equivalents(self, seen: SeenPrompt) -> float:
        return 1 + (2 + 6 * self.n_probes) * seen.rerun.fraction


def self_curvature(
    seen: SeenPrompt, target: Target, n_probes: int, generator: torch.Generator
) -> Float[Tensor, " active"]:
    """Return an unbiased estimate of d H d for each latent, in units of the target.

    Costs two forwards and two backwards of the later blocks for each probe.
    """
    total = torch.zeros_like(seen.codes[0])
    for _ in range(n_probes):
        signs = torch.randint(2, (seen.n_active,), generator=generator).to(seen.codes) * 2 - 1
        moved = (seen.codes * (1 + side * STEP * signs) for side in (1, -1))
        up, down = (gradient(seen, target, codes[None])[0] for codes in moved)
        total += (signs * seen.codes * (up - down)).sum(0) / (2 * STEP)
    return total / n_probes


def reliability(
    first_order: Float[Tensor, " active"], curvature: Float[Tensor, " active"]
) -> Float[Tensor, " active"]:
    """Return |d H d| / (2 |g.d|): 0 where the first order is all there is; inf where it is 0."""
    return curvature.abs() / (2 * first_order.abs())
